"""What a source will give and cost, from its headers; how much of an object on S3 that takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from longvu_model.video import iter_frame_blocks
from longvu_model.video.stated import StatedVideo
from pipelines import storage
from pipelines.extract.decode_cost import frames_gone_through, image_seconds, video_seconds
from pipelines.extract.measure import measure
from pipelines.extract.plan import Extent
from tests.pipelines.conftest import FPS, write_video


def read_through(path: Path, rule: str) -> np.ndarray:
    return iter_frame_blocks(path, rule).indices


@pytest.mark.parametrize("rule", ["fps:1", "fps:2,start:3", "fps:4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_a_long_video_is_counted_as_decoding_will(tmp_path: Path, suffix: str, rule: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", [9, 8, 7])
    indices = read_through(path, rule)
    extent = measure(storage.resolve(path), rule, unit_frames=16)
    assert (extent.count, extent.first_frame, extent.fps) == (len(indices), indices[0], FPS)
    assert extent.step == indices[1] - indices[0]
    assert extent.predicted_s > 0


def test_a_short_video_needs_no_more_than_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.extract.measure.iter_frame_blocks", None)
    for suffix in (".mp4", ".mkv"):
        path = write_video(tmp_path / f"a{suffix}", [12])
        extent = measure(storage.resolve(path), "fps:1", unit_frames=16)
        assert (extent.count, extent.fps) == (12, None)


def test_rules_that_depend_on_the_length_are_not_split(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [24])
    for rule in ("uniform:20", "fps:4,max:20"):
        extent = measure(storage.resolve(path), rule, unit_frames=16)
        assert (extent.count, extent.fps) == (20, None)


def test_a_bad_source_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name in ("text.mp4", "empty.mp4", "folder.mp4", "gone.mp4"):
        assert measure(storage.resolve(tmp_path / name), "fps:1", 16) == Extent(0)


def test_a_picture_under_a_videos_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "a.mp4").write_bytes(buffer.getvalue())
    assert measure(storage.resolve(tmp_path / "a.mp4"), "fps:1", 16).count == 1


@pytest.fixture(params=["index first", "index last"])
def large_video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """More than 20 MB of noise, with its index at either end."""
    rng = np.random.default_rng(0)
    path = tmp_path / "large.mp4"
    options = {"movflags": "faststart"} if request.param == "index first" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 640, 352, "yuv420p"
        stream.options = {"qp": "1", "preset": "ultrafast"}
        for _ in range(70):
            noise = rng.integers(0, 256, (352, 640, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    assert path.stat().st_size > 20 << 20
    return path


@pytest.fixture
def fetched_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the ranges that are asked of S3."""
    import s3fs

    sizes: list[int] = []
    fetch = s3fs.S3File._fetch_range

    def counted(self: s3fs.S3File, start: int, end: int) -> bytes:
        sizes.append(end - start)
        return bytes(fetch(self, start, end))

    monkeypatch.setattr(s3fs.S3File, "_fetch_range", counted)
    return sizes


def test_the_headers_of_an_object_are_fetched_and_not_the_object(
    s3: str, large_video: Path, fetched_bytes: list[int]
) -> None:
    uri = f"{s3}/measure/large.mp4"
    storage.write_bytes(uri, large_video.read_bytes())
    local = measure(storage.resolve(large_video), "fps:4", unit_frames=16)
    assert measure(uri, "fps:4", unit_frames=16) == local
    assert local.count == 70 and local.fps == FPS, "long enough to be counted"
    assert 0 < sum(fetched_bytes) < 1 << 20


def test_an_object_without_a_table_is_read_through(s3: str, tmp_path: Path, fetched_bytes: list[int]) -> None:
    path = write_video(tmp_path / "a.mkv", [24])
    storage.write_bytes(f"{s3}/measure/a.mkv", path.read_bytes())
    assert measure(f"{s3}/measure/a.mkv", "fps:1", unit_frames=16) == measure(storage.resolve(path), "fps:1", 16)
    assert sum(fetched_bytes) >= path.stat().st_size
    assert measure(f"{s3}/measure/gone.mkv", "fps:1", unit_frames=16) == Extent(0)


def stated(codec: str, keyframes: list[int] | None) -> StatedVideo:
    table = None if keyframes is None else np.array(keyframes)
    return StatedVideo(codec, 1000, 1000, 25.0, 40.0, 1000, table)


def test_frames_that_decoding_goes_through() -> None:
    wanted = np.arange(0, 1000, 100)
    assert frames_gone_through(stated("h264", [0, 250, 500, 750]), wanted) == 201 + 151 + 201 + 151
    assert frames_gone_through(stated("hevc", None), wanted) == 201 + 151 + 201 + 151
    assert frames_gone_through(stated("h264", list(range(1000))), wanted) == 10
    assert frames_gone_through(stated("vp9", None), wanted) == 901
    assert frames_gone_through(stated("mjpeg", None), wanted) == 10
    assert frames_gone_through(stated("h264", [0, 250]), wanted[:0]) == 0
    assert frames_gone_through(stated("h264", [5]), np.array([0, 4, 9])) == 5 + 5


def test_more_to_do_costs_more() -> None:
    wanted = np.arange(0, 1000, 25)
    base = video_seconds(stated("h264", [0, 500]), wanted, 1_000_000)
    assert 0.1 < base < 10
    assert video_seconds(stated("h264", [0, 500]), wanted, 9_000_000) > base
    assert video_seconds(stated("h264", list(range(0, 1000, 25))), wanted, 1_000_000) < base
    assert video_seconds(stated("vp9", [0, 500]), wanted, 1_000_000) > base
    assert video_seconds(stated("h264", [0, 500]), wanted[:3], 1_000_000) < base
    assert image_seconds(2_000_000) > image_seconds(1000) > 0
