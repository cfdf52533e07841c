"""What decoding gives: whole videos, blocks of frames, and the facts about them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeSummary:
    """Facts about a decoded video, complete once its last frame has left."""

    codec: str
    fps: float
    """Average frame rate of the container in frames per second."""
    duration_s: float
    num_frames: int
    """Frames of the video, in presentation order, among which ``indices`` count."""
    width: int
    height: int
    """Size of the frames as displayed, after rotation."""
    rotation_applied: int
    """Counterclockwise turn in degrees that the container asked for and the frames got: -90, 0, 90 or 180."""
    truncated: bool
    """Whether the file ends early or is damaged; the frames are then those of its good prefix."""
    damage: str | None
    """What is wrong with a truncated file, in one line."""
    method: str
    """How it was decoded: ``sparse``, or ``all:`` and the reason why nothing was left out."""
    packets_sent: int
    """Packets that went to the decoder; the rest of the file was only read."""


@dataclass(frozen=True)
class FrameBlock:
    """Consecutive sampled frames.

    frames: uint8 (T, H, W, 3) RGB. indices: int64 (T,) frame numbers in presentation order. pts_s: float64 (T,)
    presentation times of the container in seconds; they need not start at 0. squares: the frames padded and resized,
    uint8 (T, s, s, 3) for each side that ``supervised_blocks`` was asked for; without whole frames H = W = 0.
    """

    frames: Rgb
    indices: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    squares: tuple[Rgb, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class DecodedVideo(FrameBlock):
    """All sampled frames of a video and its summary."""

    summary: DecodeSummary

    @property
    def fps(self) -> float:
        return self.summary.fps

    @property
    def duration_s(self) -> float:
        return self.summary.duration_s

    @property
    def rotation_applied(self) -> int:
        return self.summary.rotation_applied

    @property
    def truncated(self) -> bool:
        return self.summary.truncated

    @property
    def codec(self) -> str:
        return self.summary.codec
