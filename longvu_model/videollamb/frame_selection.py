"""Which frames are looked at: of a video, of a scene, of a stream so far (SEMANTICS sections 1, 5 and 9).

Sequences are evenly spaced and cut to integers; the same arithmetic as in the release, since an ulp decides a frame.
"""

from __future__ import annotations

import math

import numpy as np

MOST_FRAMES = 512


def scene_frames(first: int, last: int, most: int) -> list[int]:
    """At most ``most`` frames of a scene; the second half is counted back from its end."""
    count = min(most, last - first + 1)
    if count == 1:
        return [first]
    step = (last - first) / (count - 1)
    return [math.trunc(first + step * i if i < count // 2 else last - step * (count - 1 - i)) for i in range(count)]


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """``count`` frames from the first to the last of a video; a shorter one shows frames more than once."""
    return np.linspace(0, num_frames - 1, count).astype(np.int64).tolist()


def whole_windows(count: int, window: int, *, most: int | None = MOST_FRAMES, up: bool = False) -> int:
    """A number of frames made a multiple of the temporal window, down (or ``up``), at least one window."""
    count = max(window, (-(-count // window) if up else count // window) * window)
    return count if most is None else min(most, count)


def frames_at_rate(num_frames: int, native_fps: float, fps: float) -> int:
    """How many frames a rate asks for."""
    return math.ceil(num_frames / native_fps * fps)
