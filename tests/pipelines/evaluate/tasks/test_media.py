"""What rows show: bounds, folders of frames, exact frames; each against the slow, obvious way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longvu_model.video.decode import decode_frames
from longvu_model.video.errors import Corrupt, Missing, Truncated
from longvu_model.video.sampling import FrameSampling, folder_frame_numbers
from pipelines.evaluate.tasks.media import Clip, folder_frames, segment_frames, show
from pipelines.evaluate.tasks.samples.clips import write_clip, write_frames

MVBENCH = FrameSampling(fps=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames") / "clip", "{:05d}.jpg", "red", "star", 30)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mp4", "red", "star", seconds=8, rate=5)


def frames_clip(folder: Path, start_s: float | None = None, end_s: float | None = None) -> Clip:
    return Clip(str(folder), start_s, end_s, frames_dir=True, frame_rate=3.0)


def read(folder: Path, numbers: list[int]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{number:05d}.jpg").convert("RGB")) for number in numbers])


@pytest.mark.parametrize("bounds", [(None, None), (0.0, 4.0), (2.5, 7.4), (3, 100)])
def test_folder_is_read_as_published(folder: Path, tmp_path: Path, bounds: tuple[float, float]) -> None:
    numbers = folder_frame_numbers(30, *bounds).tolist()
    shown = show(frames_clip(folder, *bounds), None, MVBENCH, tmp_path)
    assert shown.video is not None
    seen = decode_frames(str(shown.video), shown.sampling)
    np.testing.assert_array_equal(seen.frames, read(folder, numbers))
    # Every second one of three pictures a second.
    np.testing.assert_allclose(seen.pts_s, np.arange(len(numbers)) / 1.5, atol=0.001)


def test_folder_evenly(folder: Path, tmp_path: Path) -> None:
    shown = show(frames_clip(folder), None, FrameSampling(num_frames=4), tmp_path)
    seen = decode_frames(str(shown.video), shown.sampling)
    np.testing.assert_array_equal(seen.frames, read(folder, [1, 10, 19, 29]))


def test_folder_frames_equal_the_published_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        num_files, start_s = int(rng.integers(5, 300)), float(rng.uniform(0, 60))
        end_s = start_s + float(rng.uniform(0.1, 60))
        try:
            published = folder_frame_numbers(num_files, start_s, end_s).tolist()
        except ValueError:
            with pytest.raises(ValueError, match="no frame between"):
                folder_frames(num_files, 3.0, MVBENCH, start_s, end_s, "folder")
        else:
            assert folder_frames(num_files, 3.0, MVBENCH, start_s, end_s, "folder").tolist() == published


@pytest.mark.parametrize(("start_s", "end_s"), [(None, None), (1.2, 5.5), (0.0, 100.0)])
@pytest.mark.parametrize(("first", "last", "rate"), [(0, 39, 5.0), (1, 30, 3.0), (0, 4, 30.0)])
def test_segments_are_those_of_the_makers(
    first: int, last: int, rate: float, start_s: float | None, end_s: float | None
) -> None:
    begin, end = (-100000, 100000) if start_s is None or end_s is None else (start_s, end_s)
    start, stop = max(first, round(begin * rate)), min(round(end * rate), last)
    if start > stop:
        with pytest.raises(ValueError, match="no frame between"):
            segment_frames(16, first, last, rate, start_s, end_s)
        return
    part = float(stop - start) / 16
    expected = [int(start + part / 2 + np.round(part * i)) for i in range(16)]
    assert segment_frames(16, first, last, rate, start_s, end_s).tolist() == np.minimum(expected, last).tolist()


def test_segments_of_a_video(video: Path, tmp_path: Path) -> None:
    every = decode_frames(str(video), FrameSampling(fps=1e6)).frames
    shown = show(Clip(str(video), 1.2, 5.5), None, FrameSampling(num_frames=16), tmp_path, segments=16)
    numbers = segment_frames(16, 0, len(every) - 1, 5.0, 1.2, 5.5)
    assert len(numbers) == 16
    np.testing.assert_array_equal(decode_frames(str(shown.video), shown.sampling).frames, every[numbers])


def test_bounds_of_a_video(video: Path, tmp_path: Path) -> None:
    shown = show(Clip(str(video), 1.2, 5.5), None, MVBENCH, tmp_path)
    assert shown.video == video and not list(tmp_path.iterdir())
    assert decode_frames(str(video), shown.sampling).indices.tolist() == list(range(6, 28, 2))


def test_exact_frames_and_a_still(video: Path, tmp_path: Path) -> None:
    every = decode_frames(str(video), FrameSampling(fps=1e6)).frames
    numbers = (3, 3, 7, 20, 39)
    clip, still = Clip(str(video), frame_numbers=numbers), Clip(str(video), frame_numbers=(25,))
    shown = show(clip, still, FrameSampling(num_frames=32), tmp_path)
    np.testing.assert_array_equal(decode_frames(str(shown.video), shown.sampling).frames, every[list(numbers)])
    assert shown.still is not None
    np.testing.assert_array_equal(np.asarray(Image.open(shown.still)), every[25])
    with pytest.raises(Truncated, match=r"has 40 frames, frame 40 is asked for"):
        show(Clip(str(video), frame_numbers=(39, 40)), None, MVBENCH, tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_made_files_are_kept_and_follow_their_source(folder: Path, tmp_path: Path) -> None:
    first = show(frames_clip(folder), None, MVBENCH, tmp_path).video
    assert first is not None
    written = first.stat().st_mtime_ns
    assert show(frames_clip(folder), None, MVBENCH, tmp_path).video == first
    assert first.stat().st_mtime_ns == written
    assert show(frames_clip(folder, 0, 5), None, MVBENCH, tmp_path).video != first
    os.utime(folder, ns=(1, 1))
    assert show(frames_clip(folder), None, MVBENCH, tmp_path).video != first


def test_missing_and_broken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"nowhere\.mp4: no such file"):
        show(Clip(str(tmp_path / "nowhere.mp4")), None, MVBENCH, tmp_path)
    with pytest.raises(Missing, match="nowhere: no such folder"):
        show(frames_clip(tmp_path / "nowhere"), None, MVBENCH, tmp_path)
    with pytest.raises(Missing, match=r"00099\.jpg: no such file"):
        show(Clip(str(folder), frames_dir=True, frame_rate=3.0, frame_numbers=(2, 99)), None, MVBENCH, tmp_path)
    with pytest.raises(ValueError, match="no frame between 50 s and 60 s"):
        show(frames_clip(folder, 50, 60), None, MVBENCH, tmp_path)
    broken = tmp_path / "broken"
    write_frames(broken, "{:05d}.jpg", "red", "star", 3)
    (broken / "00001.jpg").write_text("no picture")
    with pytest.raises(Corrupt, match=r"00001\.jpg: cannot be read as a picture"):
        show(frames_clip(broken), None, MVBENCH, tmp_path)


def test_times_are_counted_at_the_rounded_rate(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", "red", "star", seconds=6, rate=5)
    shown = show(Clip(str(path)), None, FrameSampling(fps=0.5, round_rate_first=True), tmp_path)
    assert shown.times_s() == [0.0, 2.0, 4.0]
