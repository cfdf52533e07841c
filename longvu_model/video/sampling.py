"""Which frames of a video are shown to the model: the published rules by name, and ours.

A rule needs two facts, the number of frames and the average frame rate, and gives frame numbers in presentation order.
It knows nothing of files. Numbers to match: ``golden/longvu/units/frame_sampling.json`` (SEMANTICS 2.1, quirk Q2).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class FrameSampling:
    """A sampling rule: ``fps`` frames per second, or ``num_frames`` spread evenly over the video; then an optional cap.

    All rounding is Python's ``round`` (ties to even), as published. Raises ``ValueError`` on impossible values.
    """

    fps: float | None = None
    """Frames per second: every ``round(avg_fps / fps)``-th frame. 1 unless given, or unless ``num_frames`` is."""
    num_frames: int | None = None
    """``uniform:N``: N frames at ``linspace(0, n - 1, N)`` cut to integers; all frames of a shorter video."""
    max_frames: int | None = None
    """Cap on the number of frames, kept by ``thinning``."""
    start_s: float | None = None
    """Start of the clip in seconds at the average rate: frame ``max(0, round(start_s * avg_fps))``."""
    end_s: float | None = None
    """End of the clip in seconds: frames before ``min(round(end_s * avg_fps), n - 1)``, as published for MVBench."""
    thinning: Literal["uniform", "stride"] = "uniform"
    """How the cap is kept. ``uniform``: entry ``trunc(i * count / cap)`` for each i, exactly ``cap`` frames.
    ``stride`` (published, Q2): every ``count // cap``-th, which lets up to ``2 * cap - 1`` frames through."""
    zero_step: Literal["clamp", "raise"] = "clamp"
    """When ``fps`` exceeds twice the video's rate the step rounds to 0. ``clamp`` takes every frame, ``raise`` is
    published behaviour."""
    round_rate_first: bool = False
    """Round the video's rate to whole frames per second before dividing by ``fps`` (published for Video-MME,
    EgoSchema and MLVU)."""

    def __post_init__(self) -> None:
        if self.fps is None and self.num_frames is None:
            object.__setattr__(self, "fps", 1.0)
        if self.fps is not None and self.num_frames is not None:
            raise ValueError(f"frame sampling: fps={self.fps} and num_frames={self.num_frames}; give one of the two")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"frame sampling: fps={self.fps} must be a number above 0")
        for name in ("num_frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"frame sampling: {name}={value} must be at least 1")
        if self.thinning not in ("uniform", "stride"):
            raise ValueError(f"frame sampling: thinning={self.thinning!r} must be 'uniform' or 'stride'")
        if self.zero_step not in ("clamp", "raise"):
            raise ValueError(f"frame sampling: zero_step={self.zero_step!r} must be 'clamp' or 'raise'")
        for name in ("start_s", "end_s"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"frame sampling: {name}={value} must be a finite number of seconds")
        if self.start_s is not None and self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"frame sampling: end_s={self.end_s} must be after start_s={self.start_s}")

    @property
    def depends_on_length(self) -> bool:
        """Whether the chosen frame numbers depend on how many frames there are, beyond stopping at the last one."""
        return self.num_frames is not None or self.max_frames is not None or self.end_s is not None

    @classmethod
    def parse(cls, text: str | FrameSampling) -> FrameSampling:
        """``"fps:1"``, ``"uniform:64"``, ``"fps:0.5,max:1000,start:3,end:9.5"`` or a published rule such as
        ``"video_mme"``.

        Keys after the first: ``max``, ``start``, ``end``, ``thinning``, ``zero_step``, ``round_rate_first``.
        """
        if isinstance(text, FrameSampling):
            return text
        if not text.strip():
            raise ValueError(f"frame sampling {text!r} is empty; write for example 'fps:1' or 'uniform:64'")
        name, _, rest = (part.strip() for part in text.partition(","))
        fields: dict[str, Any]
        if name in PUBLISHED_SAMPLING:
            fields = dataclasses.asdict(PUBLISHED_SAMPLING[name])
        else:
            fields, rest = {}, text
        for item in filter(None, (part.strip() for part in rest.split(","))):
            key, colon, value = item.partition(":")
            if not colon or key not in _TEXT_FIELDS:
                raise ValueError(
                    f"frame sampling {text!r}: {item!r} is not one of "
                    f"{', '.join(f'{key}:VALUE' for key in _TEXT_FIELDS)} or {', '.join(PUBLISHED_SAMPLING)}; "
                    "write for example 'fps:1', 'uniform:64' or 'fps:0.5,max:1000'"
                )
            field, convert = _TEXT_FIELDS[key]
            try:
                fields[field] = convert(value)
            except ValueError:
                raise ValueError(f"frame sampling {text!r}: {value!r} is not a valid value of {key!r}") from None
        return cls(**fields)

    def __str__(self) -> str:
        """The rule as text that ``parse`` reads back to an equal rule."""
        parts = []
        for key, (field, _) in _TEXT_FIELDS.items():
            value = getattr(self, field)
            if value is not None and value != _DEFAULTS[field]:
                parts.append(
                    f"{key}:{value:g}"
                    if isinstance(value, float) and float(f"{value:g}") == value
                    else f"{key}:{value}"
                )
        return ",".join(parts)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_TEXT_FIELDS: dict[str, tuple[str, Any]] = {
    "fps": ("fps", float),
    "uniform": ("num_frames", int),
    "max": ("max_frames", int),
    "start": ("start_s", float),
    "end": ("end_s", float),
    "thinning": ("thinning", str),
    "zero_step": ("zero_step", str),
    "round_rate_first": ("round_rate_first", _flag),
}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FrameSampling)}

PUBLISHED_SAMPLING: dict[str, FrameSampling] = {
    "quick_start": FrameSampling(fps=1.0, zero_step="raise"),
    "video_mme": FrameSampling(fps=0.5, round_rate_first=True, zero_step="raise"),
    "egoschema": FrameSampling(fps=0.5, round_rate_first=True, max_frames=1000, thinning="stride", zero_step="raise"),
    "mlvu": FrameSampling(fps=0.5, round_rate_first=True, max_frames=1000, thinning="stride", zero_step="raise"),
    "mvbench": FrameSampling(fps=2.0, zero_step="raise"),
    "training": FrameSampling(fps=1.0, zero_step="raise"),
    "training_100": FrameSampling(fps=1.0, max_frames=100, zero_step="raise"),
}
"""The rules of the published code by name (SEMANTICS 2.1). MVBench clips add ``start_s`` and ``end_s``."""


def sample_indices(total_frames: int, avg_fps: float, sampling: FrameSampling) -> Indices:
    """Frame numbers (T,) int64, ascending and without repeats, 0 <= i < ``total_frames``.

    Args:
        total_frames: number of frames in presentation order, at least 1.
        avg_fps: average frame rate of the container in frames per second.

    Raises:
        ValueError: no frame falls into the clip, or a step of 0 under ``zero_step="raise"``.
    """
    if total_frames < 1:
        raise ValueError(f"a video of {total_frames} frames has nothing to sample")
    start, stop = _clip_range(total_frames, avg_fps, sampling)
    if sampling.num_frames is not None:
        count = min(sampling.num_frames, stop - start)
        indices = np.linspace(start, stop - 1, count).astype(np.int64)
    else:
        indices = np.arange(start, stop, _step(avg_fps, sampling), dtype=np.int64)
    return _thin(indices, sampling)


def _clip_range(total_frames: int, avg_fps: float, sampling: FrameSampling) -> tuple[int, int]:
    start, stop = 0, total_frames
    if sampling.start_s is not None:
        start = max(0, round(sampling.start_s * avg_fps))
    if sampling.end_s is not None:
        stop = min(round(sampling.end_s * avg_fps), total_frames - 1)
    if start >= min(stop, total_frames):
        raise ValueError(
            f"frame sampling: no frame between start_s={sampling.start_s} and end_s={sampling.end_s}; the video has "
            f"{total_frames} frames at {avg_fps:g} fps ({total_frames / avg_fps:g} s)"
        )
    return start, stop


def _step(avg_fps: float, sampling: FrameSampling) -> int:
    assert sampling.fps is not None
    rate = round(avg_fps) if sampling.round_rate_first else avg_fps
    step = round(rate / sampling.fps)
    if step == 0 and sampling.zero_step == "raise":
        raise ValueError(
            f"frame sampling: {sampling.fps:g} fps of a video of {avg_fps:g} fps gives a step of 0, an error in the "
            "published code; ask for fewer frames per second or set zero_step='clamp' to take every frame"
        )
    return max(1, step)


def _thin(indices: Indices, sampling: FrameSampling) -> Indices:
    cap = sampling.max_frames
    if cap is None or len(indices) <= cap:
        return indices
    if sampling.thinning == "stride":
        return indices[:: len(indices) // cap]
    return indices[np.arange(cap) * len(indices) // cap]


def folder_frame_numbers(
    num_files: int, start_s: float | None = None, end_s: float | None = None, fps: float = 3.0
) -> Indices:
    """1-based file numbers (T,) int64 to read from a folder of frames, as published for MVBench.

    The folders hold ``fps`` = 3 frames per second. From ``max(1, round(fps * start_s))`` up to, without,
    ``min(round(fps * end_s), num_files)`` in steps of ``round(fps / 2)``.
    """
    start = 1 if start_s is None else max(1, round(fps * start_s))
    stop = num_files if end_s is None else min(round(fps * end_s), num_files)
    step = max(1, round(fps / 2))
    if start >= stop:
        raise ValueError(
            f"frame folder: no file between {start_s} s and {end_s} s among {num_files} files at {fps:g} fps"
        )
    return np.arange(start, stop, step, dtype=np.int64)
