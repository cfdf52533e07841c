"""Scored frames from a video and from a store are the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from longvu_model.frame_selection import window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.presets import random_model, tiny
from longvu_model.towers import DinoTower
from longvu_model.video import FrameSampling, NotAVideo, decode_frames
from pipelines import storage
from pipelines.corpus import CorpusManifest
from pipelines.scored_frames import THUMBNAIL_PX, ScoredFrames, score_video, stored_frames, thumbnail
from pipelines.store import FeatureSpec, FeatureStore, StoreError, commit_unit
from pipelines.store.schema import VIDEOS, frames_schema
from tests.pipelines.store.units import manifest

VIDEO_ID = "a" * 64


@pytest.fixture(scope="module")
def tower() -> DinoTower:
    return random_model(tiny()).model.towers.dino


@pytest.fixture(scope="module")
def scored(corpus: CorpusManifest, tower: DinoTower) -> ScoredFrames:
    return score_video(corpus.videos[0], tower, threshold=0.9)


def test_similarities_are_those_of_the_whole_video(
    corpus: CorpusManifest, tower: DinoTower, scored: ScoredFrames
) -> None:
    video = decode_frames(corpus.videos[0], FrameSampling(fps=1.0))
    pixels = preprocess_frames(video.frames, tower.image_size, tower.image_mean, tower.image_std)
    with torch.inference_mode():
        expected = window_similarity(tower(pixels)).numpy()
    assert len(scored.frames) == len(expected) == 36
    np.testing.assert_allclose(scored.similarity, expected, atol=1e-5)
    np.testing.assert_array_equal(scored.kept, expected < 0.9)
    np.testing.assert_array_equal(scored.times_s, video.pts_s)
    assert {frame.size for frame in scored.frames} == {(THUMBNAIL_PX, THUMBNAIL_PX * 9 // 16)}


def test_a_text_is_no_video(tmp_path: Path, tower: DinoTower) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(NotAVideo):
        score_video(tmp_path / "text.mp4", tower)


def make_store(folder: Path, source: Path, scored: ScoredFrames, *, jpeg: bool) -> FeatureStore:
    """A store of one video whose features nobody asked for."""
    spec = FeatureSpec("dinov2", 4, 8, "float16")
    count = len(scored.frames)
    index = [5 * number for number in range(count)]
    frames: dict[str, Any] = {
        "video_id": [VIDEO_ID] * count,
        "frame_index": index,
        "pts_s": scored.times_s,
        "window": [number // 16 for number in range(count)],
        "similarity": scored.similarity,
        "kept": scored.kept,
        "dinov2": [None] * count,
    }
    if jpeg:
        frames["jpeg"] = []
        for picture in scored.frames:
            picture.save(data := io.BytesIO(), "JPEG")
            frames["jpeg"].append(data.getvalue())
    video: dict[str, Any] = dict.fromkeys(VIDEOS.names)
    video |= {
        "video_id": VIDEO_ID,
        "source": storage.resolve(source),
        "version": "v",
        "unit_id": "u",
        "chunk": 0,
        "num_chunks": 1,
        "first_sample": 0,
        "status": "ok",
        "num_sampled": count,
        "frame_index": index,
        "pts_s": scored.times_s,
        "similarity": scored.similarity,
        "kept": scored.kept,
        "stored": [False] * count,
    }
    store = FeatureStore.create(folder, manifest(config={"sampling": "fps:1"}, features=(spec,), jpeg=jpeg))
    commit_unit(
        store.uri,
        "u",
        pa.table(frames, schema=frames_schema((spec,), jpeg=jpeg)),
        pa.Table.from_pylist([video], schema=VIDEOS),
        run_id="r",
    )
    return store


@pytest.mark.parametrize("jpeg", [True, False])
def test_a_store_gives_the_same(corpus: CorpusManifest, scored: ScoredFrames, tmp_path: Path, jpeg: bool) -> None:
    stored = stored_frames(make_store(tmp_path, corpus.videos[0], scored, jpeg=jpeg), VIDEO_ID, threshold=0.9)
    np.testing.assert_array_equal(stored.similarity, scored.similarity)
    np.testing.assert_array_equal(stored.kept, scored.kept)
    np.testing.assert_array_equal(stored.times_s, scored.times_s)
    for one, other in zip(stored.frames, scored.frames, strict=True):
        difference = np.abs(np.asarray(one, int) - np.asarray(other, int)).mean()
        assert difference < 4 if jpeg else difference == 0


def test_another_threshold_needs_no_tower(corpus: CorpusManifest, scored: ScoredFrames, tmp_path: Path) -> None:
    store = make_store(tmp_path, corpus.videos[0], scored, jpeg=True)
    assert stored_frames(store, VIDEO_ID, threshold=0.5).kept.sum() < scored.kept.sum()


def test_a_changed_source_is_noticed(corpus: CorpusManifest, scored: ScoredFrames, tmp_path: Path) -> None:
    cut = ScoredFrames(scored.frames[:30], scored.times_s[:30], scored.similarity[:30], scored.kept[:30], 0.9)
    store = make_store(tmp_path, corpus.videos[0], cut, jpeg=False)
    with pytest.raises(StoreError, match=r"36 sampled.*30.*extract it again"):
        stored_frames(store, VIDEO_ID)


def test_thumbnails_never_grow() -> None:
    assert thumbnail(np.zeros((10, 20, 3), np.uint8)).size == (20, 10)
