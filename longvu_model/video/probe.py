"""What a video is, without decoding more than its first frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av

from longvu_model.video.container import MAX_PIXELS, OpenVideo, Source, check_size, open_video, reason, source_name
from longvu_model.video.errors import Corrupt, Truncated
from longvu_model.video.pictures import PictureFrames, is_picture
from longvu_model.video.pixels import Orientation, frame_orientation
from longvu_model.video.sampling import FrameSampling


@dataclass(frozen=True)
class VideoInfo:
    """Facts that the container states, and those of the first frame."""

    name: str
    """How messages call the source."""
    codec: str
    container: str
    width: int
    height: int
    """Size as displayed, after rotation."""
    rotation: int
    """Counterclockwise turn in degrees from stored to displayed: -90, 0, 90 or 180."""
    avg_fps: float | None
    """Average frames per second; None if the container does not say."""
    num_frames: int | None
    """Frames that the container lists; None if it does not, as Matroska."""
    duration_s: float | None
    start_s: float
    """Presentation time of the first frame in seconds."""
    stream_index: int
    """The best video stream, which is the one decoded."""
    pixel_format: str
    truncated: bool
    """Whether the file ends before its container says so."""


def probe(source: Source, *, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Look at a video or picture. Decodes its first frame, so it also tells whether there is one.

    Raises:
        VideoError: it cannot be opened, or its first frame cannot be decoded.
        ValueError: ``source`` is of no kind that ``Source`` lists.
    """
    if is_picture(source):
        return _probe_picture(source, max_pixels)
    with open_video(source, max_pixels=max_pixels) as video:
        frame = _first_frame(video)
        check_size(video.name, frame.width, frame.height, max_pixels)
        orientation = frame_orientation(frame)
        width, height = _displayed(frame.width, frame.height, orientation)
        return VideoInfo(
            name=video.name,
            codec=video.codec,
            container=video.container.format.name,
            width=width,
            height=height,
            rotation=orientation.rotation,
            avg_fps=video.avg_fps,
            num_frames=video.stream.frames or None,
            duration_s=video.duration_s,
            start_s=float(frame.pts * video.time_base) if frame.pts is not None else 0.0,
            stream_index=video.stream.index,
            pixel_format=frame.format.name,
            truncated=video.cut_short,
        )


def _probe_picture(source: Source, max_pixels: int) -> VideoInfo:
    frames = PictureFrames(source, FrameSampling(num_frames=1), max_pixels=max_pixels)
    _ = list(frames)
    facts = frames.summary()
    return VideoInfo(
        name=source_name(source),
        codec=facts.codec,
        container="picture",
        width=facts.width,
        height=facts.height,
        rotation=facts.rotation_applied,
        avg_fps=facts.fps,
        num_frames=facts.num_frames,
        duration_s=facts.duration_s,
        start_s=0.0,
        stream_index=0,
        pixel_format="rgb24",
        truncated=False,
    )


def _displayed(width: int, height: int, orientation: Orientation) -> tuple[int, int]:
    return (height, width) if orientation.transposed else (width, height)


def _first_frame(video: OpenVideo) -> Any:
    context = video.stream.codec_context
    context.thread_count = 1
    try:
        for packet in video.packets():
            for frame in context.decode(packet):
                return frame
        for frame in context.decode(None):
            return frame
    except av.error.FFmpegError as error:
        raise Corrupt(f"{video.name}: its first frame cannot be decoded ({reason(error)})") from error
    if video.cut_short:
        raise Truncated(f"{video.name}: was cut short before its first frame")
    raise Corrupt(f"{video.name}: its video stream holds no frames")
