"""Decode everything, convert everything, then pick: the obvious version that the sparse decoder must equal bit by bit.

It holds every frame of the video in memory and is kept for tests and for teaching.
"""

from __future__ import annotations

import av
import numpy as np

from longvu_model.video.container import MAX_PIXELS, Source, open_video, reason
from longvu_model.video.errors import Corrupt
from longvu_model.video.frames import DecodedVideo, DecodeSummary, Rgb
from longvu_model.video.pixels import RgbConverter
from longvu_model.video.sampling import FrameSampling, sample_indices


def decode_everything(source: Source, sampling: FrameSampling | None = None) -> DecodedVideo:
    """As ``decode_frames`` with the default backend; frames after the first damage are left out.

    Raises:
        VideoError: the video cannot be opened or not one frame can be decoded.
        ValueError: the sampling rule does not fit the video.
    """
    to_rgb, damage = RgbConverter(), None
    pictures: list[Rgb] = []
    times_s: list[float] = []
    with open_video(source, max_pixels=MAX_PIXELS) as video:
        context = video.stream.codec_context
        context.thread_count = 1
        try:
            for packet in [*video.packets(), None]:
                for frame in context.decode(packet):
                    pictures.append(to_rgb(frame).copy())
                    times_s.append(float(frame.pts * video.time_base) if frame.pts is not None else float("nan"))
        except av.error.FFmpegError as error:
            damage = reason(error)
        if not pictures:
            raise Corrupt(f"{video.name}: not one frame can be decoded ({damage})")
        fps = video.avg_fps or 1.0
        codec = video.codec
        damage = damage or ("the file was cut short" if video.cut_short else None)
    if np.isnan(times_s).any():
        times_s = [number / fps for number in range(len(pictures))]
    indices = sample_indices(len(pictures), fps, sampling or FrameSampling())
    frames = np.stack(pictures)[indices]
    summary = DecodeSummary(
        codec=codec,
        fps=fps,
        duration_s=times_s[-1] - times_s[0] + 1 / fps,
        num_frames=len(pictures),
        width=frames.shape[2],
        height=frames.shape[1],
        rotation_applied=to_rgb.orientation.rotation,
        truncated=damage is not None,
        damage=damage,
        method="everything",
        packets_sent=len(pictures),
    )
    return DecodedVideo(frames, indices, np.asarray(times_s)[indices], summary)
