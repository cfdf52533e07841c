"""Sampled frames of whatever is watched: a file, decoded here or in a supervised child, or frames that are given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from longvu_model.frame_selection import WINDOW_FRAMES
from longvu_model.video import FrameSampling, FrameStream, iter_frame_blocks
from longvu_model.video.frames import FrameBlock
from longvu_model.video.pictures import is_picture
from longvu_model.video.supervised import SupervisedStream, supervised_blocks
from pipelines.video_models.base import DecodeLimits, Kind, Source


class SampledFrames:
    """Frames of one source in blocks; iterate once.

    Args:
        source: a local file, or frames already sampled.
        sampling: which frames of a file.
        kind: "image" takes the first frame alone; None finds out.
        limits: decode in a supervised child.

    Attributes:
        kind: image or video.
        planned: frames that are to come, fewer come from a truncated file.
        times_s: presentation times of the frames that have come.
        damage: after the last block, what is wrong with a truncated file.

    Raises:
        VideoError: the file cannot be decoded, now or while iterating.
        ValueError: the sampling rule does not fit the video.
    """

    def __init__(
        self, source: Source, sampling: FrameSampling, kind: Kind | None = None, limits: DecodeLimits | None = None
    ) -> None:
        self.times_s: list[float] = []
        self.damage: str | None = None
        self._given: FrameBlock | None = None
        self._stream: FrameStream | SupervisedStream | None = None
        if isinstance(source, FrameBlock):
            self._given, self.planned = source, 1 if kind == "image" else len(source.frames)
            self.kind: Kind = kind or "video"
            return
        rule = FrameSampling(num_frames=1) if kind == "image" else sampling
        if limits is None:
            self._stream = iter_frame_blocks(source, rule, block_frames=WINDOW_FRAMES)
        else:
            given = {name: value for name, value in vars(limits).items() if value is not None}
            self._stream = supervised_blocks(source, rule, block_frames=WINDOW_FRAMES, **given)
        self.planned = len(self._stream.indices)
        self.kind = kind or ("image" if self.planned == 1 and is_picture(source) else "video")

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of frames, uint8 (F, H, W, 3)."""
        if self._given is not None:
            self.times_s.extend(self._given.pts_s[: self.planned].tolist())
            yield self._given.frames[: self.planned]
            return
        assert self._stream is not None
        for block in self._stream:
            self.times_s.extend(block.pts_s.tolist())
            yield block.frames
        self.damage = self._stream.summary.damage
