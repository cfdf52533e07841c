"""Shot boundaries on frames whose shots are known, and what must not look like one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longvu_model.video import decode_frames
from pipelines.corpus.scenes import PAINTERS, PALETTES
from pipelines.extract.shot_boundaries import shot_boundaries
from pipelines.extract.stage_columns import reduced
from tests.benchmarks import shots
from tests.pipelines.conftest import SHARED_VIDEOS

WIDTH, HEIGHT = 128, 72


def place(painter: str, family: int, seed: int = 0) -> np.ndarray:
    """A painted place, uint8 (H, 3 W, 3)."""
    rng = np.random.default_rng(seed)
    canvas = PAINTERS[painter](rng, np.array(PALETTES[family][0], np.float32), HEIGHT, 3 * WIDTH)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def still(picture: np.ndarray, count: int, left: int = 0, step: int = 0) -> np.ndarray:
    """A camera that moves ``step`` pixels a frame, (count, H, W, 3)."""
    return np.stack([picture[:, left + i * step : left + i * step + WIDTH] for i in range(count)])


def found(frames: np.ndarray, fps: float, **options: float) -> list[int]:
    columns = shot_boundaries(frames, np.arange(len(frames)) / fps + 3.2, **options)
    begins = [position for position, begin in enumerate(columns["shot_boundary"]) if begin]
    assert np.array_equal(columns["shot"], np.searchsorted(begins, np.arange(len(frames)), side="right"))
    return begins


@pytest.fixture(scope="module")
def hills() -> np.ndarray:
    return place("hills", 0)


@pytest.fixture(scope="module")
def city() -> np.ndarray:
    return place("city", 3)


@pytest.mark.parametrize("fps", [1, 2, 5, 30])
def test_a_cut_falls_on_the_first_frame_of_the_new_shot(hills: np.ndarray, city: np.ndarray, fps: int) -> None:
    count = 4 * fps
    frames = np.concatenate([still(hills, count), still(city, count), still(hills, count)])
    assert found(frames, fps) == [count, 2 * count]


def test_the_score_at_one_frame_per_second_looks_at_the_frame_before_alone(hills: np.ndarray, city: np.ndarray) -> None:
    frames = np.concatenate([still(hills, 3), still(city, 3)])
    times = np.arange(6.0)
    scores = shot_boundaries(frames, times)["shot_score"]
    assert scores[0] is None and scores[3] > 0.5
    assert max(score for position, score in enumerate(scores) if position not in (0, 3)) < 1e-3
    assert shot_boundaries(frames[2:4], times[2:4])["shot_score"][1] == pytest.approx(scores[3])


def test_a_part_of_one_frame(hills: np.ndarray) -> None:
    columns = shot_boundaries(still(hills, 1), np.zeros(1))
    assert columns["shot_score"] == columns["shot_boundary"] == [None] and columns["shot"].tolist() == [0]


def test_slow_pans_flashes_and_lamps_are_no_cuts(hills: np.ndarray, city: np.ndarray) -> None:
    pan = still(city, 40, step=4)
    flash = still(hills, 40).astype(np.float32)
    flash[[11, 25]] = flash[[11, 25]] * 1.3 + 90
    lamp = still(hills, 40).astype(np.float32)
    lamp[20:] *= 0.5
    for frames in (pan, flash, lamp):
        assert found(np.clip(frames, 0, 255).astype(np.uint8), 5) == []
    assert found(pan[::5], 1) == []


def test_a_change_that_stays_is_a_cut_and_one_that_is_undone_is_none(hills: np.ndarray, city: np.ndarray) -> None:
    for inserted, expected in ((1, []), (6, [20, 26])):
        frames = np.concatenate([still(hills, 20), still(city, inserted), still(hills, 20)])
        assert found(frames, 5) == expected


def test_gradual_transitions_are_one_boundary(hills: np.ndarray) -> None:
    one, other = still(hills, 20).astype(np.float32), still(place("forest", 2), 20).astype(np.float32)
    weights = np.linspace(0, 1, 5)[1:-1, None, None, None]
    dissolve = np.concatenate([one, one[:3] * (1 - weights) + other[:3] * weights, other])
    darker = np.linspace(1, 0, 5)[1:, None, None, None]
    fade = np.concatenate([one, one[:4] * darker, other[:4] * darker[::-1], other])
    for frames, first, last in ((dissolve, 20, 23), (fade, 20, 28)):
        begins = found(frames.astype(np.uint8), 5)
        assert len(begins) == 1 and first <= begins[0] <= last
    assert len(found(fade.astype(np.uint8)[3::5], 1)) == 1


@pytest.mark.parametrize(("options", "message"), [({"threshold": 0}, "threshold=0"), ({"min_shot_s": -1}, "min_shot")])
def test_options_are_checked(hills: np.ndarray, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shot_boundaries(still(hills, 2), np.arange(2.0), **options)


def test_moving_cameras_flashes_fades_and_dissolves() -> None:
    """The hard set of the benchmark: most changes are found, and nothing else is."""
    clips = [shots.hard(seed, 5) for seed in (0, 1)]
    counts = [shots.score(clip, shots.stage(clip)) for clip in clips]
    hits, detected = (sum(values) for values in zip(*counts, strict=True))
    assert hits == detected and hits >= 0.8 * sum(len(clip.transitions) for clip in clips)


@pytest.mark.skipif(not SHARED_VIDEOS.is_dir(), reason="shared videos are not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("longvu_example.mp4", [(3.4, 3.6), (9.8, 11.1), (16.5, 17.1)]),
        ("nasa_h264_two_streams.mp4", [(7.5, 8.1)]),  # its dissolve of more than a second is missed
        ("pancake.mkv", []),  # a hand-held camera, and a hand before the lens
    ],
)
def test_real_videos(name: str, expected: list[tuple[float, float]]) -> None:
    video = decode_frames(SHARED_VIDEOS / Path(name), "fps:5")
    frames = np.stack([np.asarray(reduced(Image.fromarray(frame), 128)) for frame in video.frames])
    columns = shot_boundaries(frames, video.pts_s)
    times = [time for time, begin in zip(video.pts_s, columns["shot_boundary"], strict=True) if begin]
    assert len(times) == len(expected)
    assert all(first <= time <= last for time, (first, last) in zip(times, expected, strict=True))
