"""The three stages as plain functions, over real files and the tiny preset's towers; no Ray."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from longvu_model.frame_selection import window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.video import Corrupt, FrameSampling, Timeout, TooLarge, VideoError, decode_frames
from pipelines import storage
from pipelines.config import load_config
from pipelines.extract import decode as decode_module
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import TowerBundle
from pipelines.store import FeatureStore
from tests.pipelines.conftest import SHARED_VIDEOS, write_video
from tests.pipelines.extract.conftest import extract_without_ray


@pytest.fixture
def run(bundle: TowerBundle, tmp_path: Path) -> Callable[..., FeatureStore]:
    """Extract into a new store, with settings that exercise everything unless they are overridden."""

    def extract(source: Path | str, *overrides: str) -> FeatureStore:
        settings = (f"source={source}", f"store={tmp_path}", "keep_all_below=0", "features.siglip=true", *overrides)
        number = len(list(tmp_path.glob("features/*")))
        return extract_without_ray(load_config(ExtractConfig, None, [*settings, f"name=store{number}"]), bundle)

    return extract


def test_features_are_the_towers_own(run: Callable[..., FeatureStore], bundle: TowerBundle, corpus: Path) -> None:
    store = run(corpus / "long.mp4", "sampling=fps:2", "encode.batch_frames=16", "keep_threshold=0.95")
    video = decode_frames(corpus / "long.mp4", FrameSampling(fps=2))
    row = store.videos().to_pylist()[0]
    assert row["video_id"] == storage.sha256(storage.resolve(corpus / "long.mp4"))
    assert row["frame_index"] == video.indices.tolist() and row["pts_s"] == video.pts_s.tolist()
    assert (row["status"], row["codec"], row["width"], row["height"]) == ("ok", "h264", 96, 64)
    assert row["fps"] == video.fps and row["duration_s"] == video.duration_s
    towers = {name: bundle.build(name) for name in ("dinov2", "siglip")}
    with torch.inference_mode():
        features = {}
        for name, tower in towers.items():
            pixels = preprocess_frames(video.frames, tower.image_size, tower.image_mean, tower.image_std)
            features[name] = torch.cat([tower(batch) for batch in pixels.split(16)])
    similarity = window_similarity(features["dinov2"])
    loaded = store.load(row["video_id"])
    assert np.allclose(loaded.similarity, similarity.numpy(), atol=1e-6)
    kept = loaded.similarity < 0.95
    assert 0 < kept.sum() < len(kept)
    assert np.array_equal(loaded.kept, kept)
    assert loaded.siglip is not None
    for name, stored in (("dinov2", loaded.dinov2), ("siglip", loaded.siglip)):
        assert torch.allclose(stored.float(), features[name][torch.from_numpy(kept)], rtol=2e-3, atol=2e-3)


def test_a_split_source_gives_the_same_content_as_a_whole_one(run: Callable[..., FeatureStore], corpus: Path) -> None:
    common = ("sampling=fps:2", "encode.batch_frames=16")
    whole, split = run(corpus, *common), run(corpus, *common, "unit_frames=16")
    assert len(whole.commits) == 1 and len(split.commits) > 6
    one, other = whole.videos().drop_columns(["units"]), split.videos().drop_columns(["units"])
    assert one.equals(other)
    assert one["dinov2_digest"].null_count < one.num_rows
    for video_id, status in zip(*(one[name].to_pylist() for name in ("video_id", "status")), strict=True):
        if status != "failed":
            left, right = whole.load(video_id), split.load(video_id)
            assert torch.equal(left.dinov2, right.dinov2) and np.array_equal(left.frame_index, right.frame_index)
            assert whole.frames(video_id, ["window"]).equals(split.frames(video_id, ["window"]))


def test_bad_sources_become_rows_with_their_cause(
    run: Callable[..., FeatureStore], corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(corpus, folder)
    (folder / "empty.mp4").touch()
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    wide = write_video(folder / "huge.mp4", [1], size=(320, 64))
    listed = folder / "all.txt"
    listed.write_text("\n".join(sorted(str(path) for path in folder.rglob("*.m*"))))
    store = run(listed, f"decode.max_pixels={96 * 64}")
    rows = {Path(row["source"]).name: row for row in store.videos().to_pylist()}
    causes = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert causes == {
        "cut.mkv": "Truncated",
        "text.mp4": "NotAVideo",
        "empty.mp4": "NotAVideo",
        "gone.mp4": "Missing",
        "folder.mp4": "NotAVideo",
        wide.name: "TooLarge",
    }
    assert rows["cut.mkv"]["status"] == "truncated" and 1 <= rows["cut.mkv"]["num_sampled"] < 12
    quarantined = {Path(row["source"]).name: row["message"] for row in store.quarantine().to_pylist()}
    assert quarantined.keys() == causes.keys() - {"cut.mkv"}
    assert all(name in message and "\n" not in message for name, message in quarantined.items())
    assert rows["copy.mp4"]["video_id"] == rows["short.mp4"]["video_id"]
    assert store.frames(rows["copy.mp4"]["video_id"]).num_rows == 5
    assert store.verify().problems == ()


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Make decoders fail; returns what was tried: (decoder, frames per block)."""
    real = decode_module.supervised_blocks

    def install(fails: Callable[[str, int], VideoError | None]) -> list[tuple[str, int]]:
        tried = []

        def supervised(path: Path, *args: object, backend: str, block_frames: int, **options: object) -> object:
            tried.append((backend, block_frames))
            error = fails(backend, block_frames)
            if error is not None:
                raise error
            return real(path, *args, backend=backend, block_frames=block_frames, **options)

        monkeypatch.setattr(decode_module, "supervised_blocks", supervised)
        return tried

    return install


def test_the_second_decoder_is_asked(
    run: Callable[..., FeatureStore], corpus: Path, poison: Callable[..., Any]
) -> None:
    tried = poison(lambda backend, _: Corrupt("broken for one") if backend == "pyav" else None)
    row = run(corpus / "middle.mp4").videos().to_pylist()[0]
    assert tried == [("pyav", 16), ("decord", 16)]
    assert (row["status"], row["decoder"], row["attempts"], row["num_sampled"]) == ("ok", "decord", 2, 20)


def test_poison_is_quarantined_with_all_that_is_known(
    run: Callable[..., FeatureStore], corpus: Path, poison: Callable[..., Any]
) -> None:
    def fails(backend: str, _: int) -> VideoError:
        error = Timeout("too slow") if backend == "pyav" else Corrupt("no frames")
        error.log_tail = f"{backend} said so"
        return error

    poison(fails)
    row = run(corpus / "middle.mp4").videos().to_pylist()[0]
    assert (row["status"], row["error"], row["attempts"], row["decoder"]) == ("failed", "Timeout", 2, "decord")
    assert row["message"] == "too slow; decord: no frames"
    assert row["log_tail"] == "pyav: pyav said so\ndecord: decord said so"


def test_short_memory_makes_blocks_smaller(
    run: Callable[..., FeatureStore], corpus: Path, poison: Callable[..., Any]
) -> None:
    def fails(_: str, block_frames: int) -> VideoError | None:
        error = TooLarge("needs more memory")
        error.out_of_memory = True
        return error if block_frames > 4 else None

    tried = poison(fails)
    row = run(corpus / "middle.mp4").videos().to_pylist()[0]
    assert tried == [("pyav", 16), ("pyav", 8), ("pyav", 4)]
    assert (row["status"], row["attempts"], row["num_sampled"]) == ("ok", 3, 20)


def test_short_videos_keep_every_frame(run: Callable[..., FeatureStore], corpus: Path) -> None:
    store = run(corpus, "keep_all_below=20", "encode.batch_frames=16", "unit_frames=16")
    rows = {Path(row["source"]).name: row for row in store.videos().to_pylist()}
    assert rows["middle.mp4"]["num_stored"] == rows["middle.mp4"]["num_sampled"] == 20 > rows["middle.mp4"]["num_kept"]
    assert rows["long.mp4"]["num_stored"] == rows["long.mp4"]["num_kept"] < 40
    assert len(store.load(rows["middle.mp4"]["video_id"], float("inf")).dinov2) == 20


def test_thumbnails(run: Callable[..., FeatureStore], corpus: Path) -> None:
    store = run(corpus / "middle.mp4", "features.jpeg_edge_px=48")
    row = store.videos().to_pylist()[0]
    jpegs = store.frames(row["video_id"], ["jpeg"])["jpeg"].to_pylist()
    assert len(jpegs) == 20
    frames = decode_frames(corpus / "middle.mp4", FrameSampling(fps=1)).frames
    for jpeg, frame in zip(jpegs, frames, strict=True):
        picture = Image.open(io.BytesIO(jpeg))
        assert picture.size == (48, 32)
        wanted = Image.fromarray(frame).resize((48, 32), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(picture, float) - np.asarray(wanted, float)).mean() < 12


def test_rules_that_depend_on_the_length_are_never_split(run: Callable[..., FeatureStore], corpus: Path) -> None:
    store = run(corpus / "long.mp4", "sampling=uniform:40", "unit_frames=16", "encode.batch_frames=16")
    row = store.videos().to_pylist()[0]
    expected = decode_frames(corpus / "long.mp4", FrameSampling.parse("uniform:40")).indices
    assert row["frame_index"] == expected.tolist() and len(row["units"]) == 1


def test_clips(run: Callable[..., FeatureStore], corpus: Path) -> None:
    rule = "fps:2,start:3.5,end:30"
    store = run(corpus / "long.mp4", f"sampling={rule}", "unit_frames=16", "encode.batch_frames=16")
    row = store.videos().to_pylist()[0]
    assert row["frame_index"] == decode_frames(corpus / "long.mp4", FrameSampling.parse(rule)).indices.tolist()
    assert len(row["units"]) == 4


def test_sources_on_s3(run: Callable[..., FeatureStore], corpus: Path, s3: str) -> None:
    for name in ("long.mp4", "text.mp4"):
        storage.write_bytes(f"{s3}/videos/{name}", (corpus / name).read_bytes())
    remote, local = run(f"{s3}/videos"), run(corpus / "long.mp4")
    rows = remote.videos().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert rows[0]["source"] == f"{s3}/videos/long.mp4" and rows[0]["version"].startswith("etag:")
    assert rows[1]["message"].startswith(f"'{s3}/videos/text.mp4'")
    assert rows[0]["dinov2_digest"] == local.videos()["dinov2_digest"].to_pylist()[0]


@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="shared videos are not here")
def test_shared_videos(run: Callable[..., FeatureStore]) -> None:
    store = run(SHARED_VIDEOS)
    statuses = {Path(row["source"]).name: row["status"] for row in store.videos().to_pylist()}
    assert statuses.pop("corrupted.mp4") == "truncated"
    assert set(statuses.values()) == {"ok"} and len(statuses) == 10
