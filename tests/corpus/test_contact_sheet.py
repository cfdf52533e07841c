"""The contact sheet: every frame in its place, kept ones marked, dropped ones dimmed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pipelines.contact_sheet import clock, contact_sheet

KEPT = (74, 222, 128)


def drawn(count: int, columns: int | None = None, size: tuple[int, int] = (160, 90), keep_every: int = 3) -> np.ndarray:
    """A sheet of plain red frames of which every n-th is kept, as an array."""
    frames = (Image.new("RGB", size, (255, 0, 0)) for _ in range(count))
    kept = np.arange(count) % keep_every == 0
    sheet = contact_sheet(
        frames, np.arange(count), np.where(kept, 0.4, 0.95), kept, "red.mp4", threshold=0.83, columns=columns
    )
    assert sheet.mode == "RGB"
    return np.asarray(sheet)


def regions(mask: np.ndarray) -> int:
    """Number of rectangles in a mask of rectangles that do not touch: their top left corners."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    return int((inner & ~padded[:-2, 1:-1] & ~padded[1:-1, :-2] & ~padded[:-2, :-2]).sum())


@pytest.mark.parametrize("count", [1, 16, 20, 65])
def test_every_frame_is_there_bright_if_kept_and_dim_if_dropped(count: int) -> None:
    sheet = drawn(count)
    kept = len(range(0, count, 3))
    bright = (sheet == (255, 0, 0)).all(-1)
    dim = (sheet[..., 0] > 60) & (sheet[..., 0] < 200) & (sheet[..., 1] < 60) & (sheet[..., 2] < 60)
    # A tag covers the corner of a kept frame, which leaves two corners.
    assert regions(bright) == 2 * kept
    assert regions(dim) == count - kept


def test_kept_frames_have_a_border_all_around() -> None:
    sheet = drawn(1)
    ys, xs = (sheet == (255, 0, 0)).all(-1).nonzero()
    for edge in (
        sheet[ys.max() + 2, xs.min() : xs.max()],
        sheet[ys.min() - 2, xs.min() : xs.max()],
        sheet[ys.min() : ys.max(), xs.max() + 2],
        sheet[ys.min() : ys.max(), xs.min() - 2],
    ):
        assert (edge == KEPT).all()


def test_each_window_begins_a_row() -> None:
    sheet = drawn(40, columns=10, keep_every=1)
    bright = (sheet == (255, 0, 0)).all(-1).any(1)
    # Windows of 16, 16 and 8 frames in rows of 10: 2 + 2 + 1.
    assert int((np.diff(bright.astype(int)) == 1).sum()) == 5


def test_frames_of_any_shape_and_arrays_are_drawn() -> None:
    for size in [(640, 20), (90, 400)]:
        assert (drawn(3, size=size) == (255, 0, 0)).all(-1).any()
    array = np.full((1, 20, 30, 3), (0, 0, 255), np.uint8)
    assert (np.asarray(contact_sheet(array, [0.0], [0.0], [True], "array")) == (0, 0, 255)).all(-1).any()


def test_frames_are_taken_one_by_one() -> None:
    given: list[weakref.ref[np.ndarray]] = []

    def frames() -> Iterator[np.ndarray]:
        for _ in range(200):
            assert sum(reference() is not None for reference in given) <= 3
            frame = np.zeros((20, 30, 3), np.uint8)
            given.append(weakref.ref(frame))
            yield frame

    contact_sheet(frames(), np.arange(200), np.zeros(200), np.ones(200, bool), "many")
    assert len(given) == 200


def test_a_long_title_is_cut() -> None:
    short = contact_sheet([Image.new("RGB", (16, 9))], [0.0], [0.0], [True], "a")
    long = contact_sheet([Image.new("RGB", (16, 9))], [0.0], [0.0], [True], "a" * 500)
    assert short.size == long.size


@pytest.mark.parametrize(
    ("frames", "times", "similarity", "kept", "message"),
    [
        (0, 0, 0, 0, "no frames"),
        (2, 2, 1, 2, "2 times, 1 similarities and 2 kept"),
        (1, 2, 2, 2, "1 frames for 2 times"),
        (3, 2, 2, 2, "more frames than the 2 times"),
        (0, 2, 2, 2, "no frames for 2 times"),
    ],
)
def test_unequal_lengths_are_named(frames: int, times: int, similarity: int, kept: int, message: str) -> None:
    pictures = [Image.new("RGB", (16, 9))] * frames
    with pytest.raises(ValueError, match=message):
        contact_sheet(pictures, [0.0] * times, [0.0] * similarity, [True] * kept, "x")
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet(pictures, [0.0], [0.0], [True], "x", columns=0)


@pytest.mark.parametrize(
    ("time_s", "shown"), [(0, "0:00"), (59.96, "1:00"), (61.5, "1:01.5"), (3600, "1:00:00"), (7325.25, "2:02:05.2")]
)
def test_clock(time_s: float, shown: str) -> None:
    assert clock(time_s) == shown
