"""What a container states about its video, read from its headers alone: no packet is read, nothing is decoded.

For planning, where a file of gigabytes on a far storage should cost a few requests. The numbers are those of the
container: decoding has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longvu_model.video.container import MAX_PIXELS, OpenVideo, Source, open_video

# FFmpeg's flag of index entries that an edit list hides (AVINDEX_DISCARD_FRAME).
_HIDDEN = 2
# FFmpeg's name for MP4 and its kin. It reads their whole sample table on opening, unless they are fragmented.
_WITH_SAMPLE_TABLE = "mov,mp4,m4a,3gp,3g2,mj2"


@dataclass(frozen=True)
class StatedVideo:
    """Facts about the best video stream."""

    codec: str
    width: int
    height: int
    """Size as stored, before rotation."""
    avg_fps: float | None
    duration_s: float | None
    num_frames: int | None
    """Frames; without a table of all of them, as many as duration and rate make. None if neither is stated."""
    keyframes: NDArray[np.int64] | None
    """Positions (K,) in decoding order of the key frames; None if there is no table of all frames."""

    @property
    def listed(self) -> bool:
        """Whether the container has a table of all frames, so that ``num_frames`` is what a reader would count."""
        return self.keyframes is not None


def read_stated(source: Source, *, max_pixels: int = MAX_PIXELS) -> StatedVideo:
    """Open a video and read what its container states.

    Raises:
        VideoError: it cannot be opened.
        ValueError: ``source`` is of no kind that ``Source`` lists.
    """
    with open_video(source, max_pixels=max_pixels) as video:
        context = video.stream.codec_context
        keyframes, num_frames = _sample_table(video)
        if num_frames is None and video.duration_s and video.avg_fps:
            num_frames = max(1, round(video.duration_s * video.avg_fps))
        return StatedVideo(
            video.codec, context.width, context.height, video.avg_fps, video.duration_s, num_frames, keyframes
        )


def _sample_table(video: OpenVideo) -> tuple[NDArray[np.int64] | None, int | None]:
    """Key frames and number of frames that are shown, where the container lists every frame."""
    if video.container.format.name != _WITH_SAMPLE_TABLE or not video.stream.frames:
        return None, video.stream.frames or None
    flags = [(entry.is_keyframe, entry.flags & _HIDDEN) for entry in video.stream.index_entries]
    if not flags:
        return None, video.stream.frames
    is_keyframe, hidden = np.array(flags, bool).T
    return np.flatnonzero(is_keyframe), int(np.count_nonzero(~hidden))
