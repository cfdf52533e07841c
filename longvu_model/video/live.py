"""Frames of a stream as they come: a camera, an address, or a file that is read once from start to end.

Nothing is planned and nothing sought: memory holds one frame and what the decoder holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import av

from longvu_model.video.container import MAX_PIXELS, check_size, reason
from longvu_model.video.errors import Corrupt, NotAVideo
from longvu_model.video.pixels import Rgb, RgbConverter


def live_frames(
    source: str, fps: float, *, max_pixels: int = MAX_PIXELS, timeout_s: float = 30.0
) -> Iterator[tuple[float, Rgb]]:
    """Time in seconds since the first frame, and frame uint8 (H, W, 3), ``fps`` of them a second.

    Args:
        source: address (``rtsp://``, ``http://`` ...), camera (``/dev/video0``) or path.
        fps: each frame is the first at or after its turn; a slower stream gives all it has.
        timeout_s: how long an address may be silent.

    Raises:
        NotAVideo: it cannot be opened, or has no picture.
        Corrupt: nothing of it can be decoded.
        TooLarge: its frames have more than ``max_pixels``.
    """
    camera = source.startswith("/dev/video")
    try:
        container = av.open(source, format="v4l2" if camera else None, timeout=None if camera else timeout_s)
    except (av.error.FFmpegError, OSError) as error:
        raise NotAVideo(f"{source!r}: {reason(error)}") from None
    with container:
        if not container.streams.video:
            raise NotAVideo(f"{source!r}: has no video stream")
        yield from _sampled(container, source, fps, max_pixels)


def _sampled(container: Any, source: str, fps: float, max_pixels: int) -> Iterator[tuple[float, Rgb]]:
    convert = RgbConverter()
    start_s, due = None, 0
    try:
        for frame in container.decode(container.streams.video[0]):
            time_s = frame.time or 0.0
            start_s = time_s if start_s is None else start_s
            # Half a millisecond: containers round their clocks.
            if (time_s - start_s) * fps < due - 5e-4 * fps:
                continue
            due = math.floor((time_s - start_s) * fps + 5e-4 * fps) + 1
            check_size(source, frame.width, frame.height, max_pixels)
            yield time_s - start_s, convert(frame).copy()
    except av.error.EOFError:
        return
    except av.error.FFmpegError as error:
        if start_s is None:
            raise Corrupt(f"{source!r}: {reason(error)}") from None
        # A stream that breaks off has ended; what came is good.
        return
