"""A store for other libraries: pyarrow, Ray Data and torch. Each is imported only when its view is asked for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.store.reader import FeatureStore, VideoFeatures
from pipelines.store.schema import FAILED, frames_schema

if TYPE_CHECKING:
    import pyarrow.dataset
    import ray.data
    import torch

Per = Literal["video", "frame"]


class VideoDataset:
    """Map-style dataset of :class:`VideoFeatures`, for torch's ``DataLoader`` with ``collate_fn=list`` or your own.

    Every worker process opens the store for itself.
    """

    def __init__(self, uri: str, video_ids: Sequence[str], threshold: float | None, cap: int | None):
        self._uri, self._threshold, self._cap = uri, threshold, cap
        self.video_ids = list(video_ids)

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, position: int) -> VideoFeatures:
        return self._store.load(self.video_ids[position], self._threshold, self._cap)

    @functools.cached_property
    def _store(self) -> FeatureStore:
        return FeatureStore.open(self._uri)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_store"}


def frames_dataset(store: FeatureStore) -> pyarrow.dataset.Dataset:
    """All frames rows as a dataset, which reads the columns and rows that it is asked for.

    Feature columns are encoded; see :func:`pipelines.store.features.decode`. A video that lies at several places among
    the sources may have its rows several times.
    """
    import pyarrow.dataset as ds

    manifest = store.manifest
    units = {unit for listed in _good(store)["units"].to_pylist() for unit in listed}
    uris = [storage.join(store.uri, store.commits[unit].frames.path) for unit in sorted(units)]
    filesystem, folder = storage.arrow_filesystem(store.uri)
    return ds.FileSystemDataset.from_paths(
        [folder + uri.removeprefix(store.uri) for uri in uris],
        schema=frames_schema(manifest.features, jpeg=manifest.jpeg, stages=manifest.stages.values()),
        format=ds.ParquetFileFormat(),
        filesystem=filesystem,
    )


def ray_dataset(store: FeatureStore, per: Per, threshold: float | None, cap: int | None) -> ray.data.Dataset:
    """Loaded features as a Ray dataset of one row per video or per frame, read in Ray's tasks.

    Columns: video_id, source, frame_index, pts_s, similarity (with dinov2), and a tensor per tower; (K, P, D) per
    video, (P, D) per frame. Number formats that numpy does not have become float32.
    """
    import ray.data

    videos = ray.data.from_arrow(_good_videos(store).select(["video_id"]))
    rows = functools.partial(_rows, uri=store.uri, per=per, threshold=threshold, cap=cap)
    return videos.flat_map(rows)


def torch_dataset(
    store: FeatureStore, threshold: float | None, cap: int | None, rank: int, world_size: int
) -> torch.utils.data.Dataset[VideoFeatures]:
    """The videos ``rank``, ``rank + world_size`` ... as a map-style dataset; see :class:`VideoDataset`."""
    ids = _good_videos(store)["video_id"].to_pylist()
    return VideoDataset(store.uri, ids[rank::world_size], threshold, cap)  # type: ignore[return-value]


def _good(store: FeatureStore) -> pa.Table:
    index = store.videos(["video_id", "status"])
    return index.filter(pc.not_equal(index["status"], FAILED))


def _good_videos(store: FeatureStore) -> pa.Table:
    """Rows of videos that have features, each video once."""
    good = _good(store)
    _, first = np.unique(good["video_id"].to_numpy(), return_index=True)
    return good.take(np.sort(first))


def _rows(row: dict[str, Any], uri: str, per: Per, threshold: float | None, cap: int | None) -> list[dict[str, Any]]:
    loaded = _opened(uri).load(row["video_id"], threshold, cap)
    columns = {
        "frame_index": loaded.frame_index,
        "pts_s": loaded.pts_s,
        **({} if loaded.similarity is None else {"similarity": loaded.similarity[loaded.kept]}),
        **{name: _numpy(features_KPD) for name, features_KPD in loaded.features.items()},
    }
    facts = {"video_id": row["video_id"], "source": loaded.video["source"]}
    if per == "video":
        return [facts | columns]
    return [facts | {name: values[frame] for name, values in columns.items()} for frame in range(len(loaded.pts_s))]


@functools.lru_cache(4)
def _opened(uri: str) -> FeatureStore:
    """One store per process, not per row."""
    return FeatureStore.open(uri)


def _numpy(features_KPD: torch.Tensor) -> np.ndarray:
    import torch

    return (features_KPD if features_KPD.dtype == torch.float16 else features_KPD.float()).numpy()
