"""Shot boundaries: the stage that ships with the project, useful as it is and an example of how to write one.

    stages:
      - call: pipelines.extract.shot_boundaries:shot_boundaries

A cut changes both where light and dark are and which colours there are; a pan or a person walking changes the first
alone, a flash or a lamp the second. So the score is the geometric mean of two distances between the half second before
a frame and the half second from it on, each taken as the median of its frames, which removes what is undone within a
quarter of a second and sees through dissolves. At one frame per second that is the frame and the one before it.

Shapes: T frames, S side of a square grid of cells, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.extract.stages import frame_stage

_SIDE, _SHIFT = 16, 2
_INNER = _SIDE - 2 * _SHIFT
_WINDOW_S = 0.5
# Grey levels; contrast below it is noise.
_CONTRAST = 4.0
_LUMA_BINS, _CHROMA_BINS, _CHROMA_STEP = 8, 8, 8


@frame_stage(
    columns={"shot_score": pa.float32(), "shot_boundary": pa.bool_(), "shot": pa.int32()}, version="1", edge_px=128
)
def shot_boundaries(
    frames_THWC: np.ndarray, pts_s: np.ndarray, *, threshold: float = 0.46, min_shot_s: float = 0.75
) -> dict[str, Any]:
    """Where a new shot begins.

    Args:
        frames_THWC: uint8 RGB.
        pts_s: times in seconds.
        threshold: score from which on a frame begins a shot, 0 to 1.
        min_shot_s: of boundaries closer together than this, only the one with the highest score counts.

    Returns:
        shot_score float32 (T,): 0 same picture, 1 nothing in common. shot_boundary bool (T,): a shot begins here.
        shot int32 (T,): ordinal of the shot within the part, from 0. Score and boundary of a part's first frame are
        null: what was before it, if anything, belongs to another part, so nobody compared them.

    Raises:
        ValueError: threshold or min_shot_s out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be above 0 and at most 1")
    if not min_shot_s >= 0:
        raise ValueError(f"min_shot_s={min_shot_s}: must be 0 seconds or more")
    luma_TSS, colours_TB = _luma(frames_THWC), _colours(frames_THWC)
    window = _window_frames(pts_s)
    before, after = _sides(luma_TSS, window)
    score_T = np.sqrt(_layout_distance(before, after) * _colour_distance(*_sides(colours_TB, window)))
    step_T = np.sqrt(_layout_distance(luma_TSS[:-1], luma_TSS[1:]) * _colour_distance(colours_TB[:-1], colours_TB[1:]))
    # A fade ends in a blank picture; the next shot begins when there is something to see.
    candidates = (score_T >= threshold) & (after.std(axis=(1, 2)) >= _CONTRAST)
    begins = _peaks(candidates, step_T, pts_s[1:], min_shot_s)
    return {
        "shot_score": [None, *score_T.tolist()],
        "shot_boundary": [None, *begins.tolist()],
        "shot": np.concatenate([[0], np.cumsum(begins)]).astype(np.int32),
    }


def _luma(frames_THWC: np.ndarray) -> np.ndarray:
    """Mean brightness of cells, float32 (T, S, S)."""
    grids = [Image.fromarray(frame).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX) for frame in frames_THWC]
    return np.stack([np.asarray(grid, np.float32) for grid in grids])


def _colours(frames_THWC: np.ndarray) -> np.ndarray:
    """Fraction of pixels per colour, float32 (T, B). Most colours are close to grey, so those are told apart finely."""
    rows = []
    for frame in frames_THWC:
        luma, *chroma = np.moveaxis(np.asarray(Image.fromarray(frame).convert("YCbCr"), np.int32), -1, 0)
        bins = luma * _LUMA_BINS // 256
        for plane in chroma:
            near_grey = (plane - 128) // _CHROMA_STEP + _CHROMA_BINS // 2
            bins = bins * _CHROMA_BINS + np.clip(near_grey, 0, _CHROMA_BINS - 1)
        counts = np.bincount(bins.ravel(), minlength=_LUMA_BINS * _CHROMA_BINS**2)
        rows.append((counts / bins.size).astype(np.float32))
    return np.stack(rows)


def _window_frames(pts_s: np.ndarray) -> int:
    """An odd number of frames that last about half a second; 1 at two frames per second and below."""
    if len(pts_s) < 2:
        return 1
    step_s = max(float(np.median(np.diff(pts_s))), 1e-3)
    return 2 * int(_WINDOW_S / step_s / 2) + 1


def _sides(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Medians of the ``window`` values before each of the values 1 to T - 1, and of those from it on.

    The first and the last value stand for those that are not there.
    """
    if window == 1:
        return values[:-1], values[1:]
    padded = np.pad(values, [(window - 1, window - 1), *[(0, 0)] * (values.ndim - 1)], mode="edge")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, window, axis=0), axis=-1)
    return medians[: len(values) - 1], medians[window : window + len(values) - 1]


def _layout_distance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """1 minus the likeness of cells at the best small shift, (T - 1,) in 0..1; blind to brightness and contrast.

    Landscapes are all bright above and dark below, so the correlation of the cells counts half, that of the
    differences between neighbouring cells the other half.
    """
    cells, edges = _cells_and_edges(before[:, _SHIFT:-_SHIFT, _SHIFT:-_SHIFT])
    best = np.zeros(len(before), np.float32)
    for down in range(2 * _SHIFT + 1):
        for right in range(2 * _SHIFT + 1):
            shifted = _cells_and_edges(after[:, down : down + _INNER, right : right + _INNER])
            alike = _correlation(cells, shifted[0], _CONTRAST) + _correlation(edges, shifted[1], _CONTRAST / 2)
            best = np.maximum(best, alike / 2)
    return np.clip(1 - best, 0, 1)


def _cells_and_edges(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells about their mean, and their differences to the left and upper neighbours, a row per grid."""
    cells = (grids - grids.mean(axis=(1, 2), keepdims=True)).reshape(len(grids), _INNER**2)
    edges = np.stack([np.diff(grids, axis=2)[:, 1:], np.diff(grids, axis=1)[:, :, 1:]], axis=1)
    return cells, edges.reshape(len(grids), 2 * (_INNER - 1) ** 2)


def _correlation(first: np.ndarray, second: np.ndarray, floor: float) -> np.ndarray:
    """Of rows; two rows that vary by less than ``floor`` are alike."""
    scale = ((first**2).mean(axis=1) + floor**2) * ((second**2).mean(axis=1) + floor**2)
    return ((first * second).mean(axis=1) + floor**2) / np.sqrt(scale)


def _colour_distance(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Fraction of pixels whose colours the other side does not have, (T - 1,) in 0..1."""
    return np.clip(np.abs(before - after).sum(axis=1) / 2, 0, 1)


def _peaks(candidates: np.ndarray, step: np.ndarray, times_s: np.ndarray, min_shot_s: float) -> np.ndarray:
    """Of candidates within ``min_shot_s`` the one with the largest ``step``, bool (T - 1,).

    Medians do not change next to a cut, so a score cannot tell on which frame it falls.
    """
    begins = np.zeros(len(step), bool)
    for here in sorted(np.flatnonzero(candidates), key=lambda position: -step[position]):
        if not begins[np.abs(times_s - times_s[here]) < min_shot_s].any():
            begins[here] = True
    return begins
