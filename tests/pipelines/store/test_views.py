"""Stores as other libraries see them hold what :meth:`FeatureStore.load` gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import ray
import torch
from torch.utils.data import DataLoader

from pipelines.store import FeatureStore, VideoFeatures, compact
from pipelines.store.features import decode
from tests.pipelines.store.units import LONG, Source, commit, manifest

IDS = ["a-id", "b-id", "long-id"]


def filled(root: str | Path, dtype: str = "float16") -> FeatureStore:
    made_with = manifest(dtype, siglip=True)
    store = FeatureStore.create(root, made_with)
    commit(store.uri, "u1", [Source("a", 40), Source("bad", 0, status="failed"), LONG[0]], made_with)
    commit(store.uri, "u2", [Source("b", 9), Source("b", 9), LONG[2]], made_with)
    compact(store.uri)
    commit(store.uri, "u3", [LONG[1]], made_with)
    return store


def test_pandas_and_arrow(root: str) -> None:
    store = filled(root)
    frame = store.to_pandas(["video_id", "status", "num_sampled"])
    assert frame.groupby("status")["num_sampled"].sum().to_dict() == {"failed": 0, "ok": 40 + 9 + 84}
    videos, frames = store.to_arrow()
    assert videos.equals(store.videos())
    assert frames.count_rows() == 40 + 9 + 84
    rows = frames.to_table(columns=["frame_index", "dinov2"], filter=pc.field("video_id") == "a-id")
    loaded = store.load("a-id")
    assert torch.equal(decode(rows["dinov2"], store.manifest.features[0]), loaded.dinov2)
    assert np.array_equal(rows["frame_index"].to_numpy()[loaded.kept], loaded.frame_index)


def same(one: VideoFeatures, other: VideoFeatures) -> bool:
    assert one.siglip is not None and other.siglip is not None
    return torch.equal(one.dinov2, other.dinov2) and torch.equal(one.siglip, other.siglip)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch(tmp_path: Path, workers: int) -> None:
    store = filled(tmp_path)
    dataset = store.to_torch(0.8, cap=10)
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=list)
    loaded = [video for batch in loader for video in batch]
    assert [video.video["video_id"] for video in loaded] == IDS
    assert all(same(video, store.load(video.video["video_id"], 0.8, 10)) for video in loaded)
    shards = [store.to_torch(rank=rank, world_size=2).video_ids for rank in range(2)]  # type: ignore[attr-defined]
    assert shards == [["a-id", "long-id"], ["b-id"]]


@pytest.fixture(scope="module")
def local_ray() -> object:
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


def test_ray_data(tmp_path: Path, local_ray: object) -> None:
    store = filled(tmp_path, "bfloat16")
    rows = {row["video_id"]: row for row in store.to_ray_data(threshold=0.85).take_all()}
    assert sorted(rows) == IDS
    for video_id, row in rows.items():
        loaded = store.load(video_id, 0.85)
        assert np.array_equal(row["dinov2"], loaded.dinov2.float().numpy())
        assert np.array_equal(row["frame_index"], loaded.frame_index) and row["source"] == loaded.video["source"]
    frames = store.to_ray_data("frame", cap=None).take_all()
    assert len(frames) == sum(len(store.load(video_id).pts_s) for video_id in IDS)
    first = next(row for row in frames if row["video_id"] == "b-id")
    assert np.array_equal(first["siglip"], store.load("b-id").siglip[0].float().numpy())  # type: ignore[index]
