"""The exact sparse decoder: only what the wanted frames need is decoded, and only they become RGB.

Exactness rests on the plan (``plan.py``) and is checked as frames come out: each wanted frame must appear, in order.
If one does not, or the decoder complains, everything is decoded from the start instead, which is the definition of the
right answer (``oracle.py``). Frames that left before that are right either way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from longvu_model.video.container import OpenVideo, Source, check_size, open_video, raise_if_memory, reason
from longvu_model.video.errors import Corrupt, Truncated
from longvu_model.video.frames import DecodeSummary, Rgb
from longvu_model.video.packet_index import PacketIndex, read_index
from longvu_model.video.pixels import RgbConverter
from longvu_model.video.plan import DecodePlan, make_plan
from longvu_model.video.sampling import FrameSampling, sample_indices

_KEEP_BYTES = 4 << 20
"""Packets of a file up to this size stay in memory between the index and decoding; larger files are read twice."""


class SparseFrames:
    """The sampled frames of one video; iterate once. ``indices`` are the frame numbers that will be tried.

    Raises:
        VideoError: the video cannot be opened, or (while iterating) not one frame of it can be decoded.
        ValueError: the sampling rule does not fit the video.
    """

    def __init__(self, source: Source, sampling: FrameSampling, *, threads: int, max_pixels: int) -> None:
        self._source, self._threads, self._max_pixels = source, threads, max_pixels
        with open_video(source, max_pixels=max_pixels) as video:
            index, kept = read_index(video, keep_bytes=_KEEP_BYTES)
            # The decoder outlives its container, so a short file is opened and read only once.
            self._kept = None if kept is None else (video.stream.codec_context, kept)
            self._name, self._codec, self._cut_short = video.name, video.codec, video.cut_short
            self._time_base = float(video.time_base)
            self.fps = video.avg_fps or _rate_of(index, self._time_base)
            self._duration_s = _duration(video, index, self.fps)
        self._damage = index.damage
        self._packets_sent = 0
        self._rgb = RgbConverter()
        self._taken = 0
        if not index.num_frames:
            raise self._nothing_decoded()
        self.num_frames = index.num_frames
        if not index.timed and sampling.depends_on_length:
            self.num_frames = self._count_by_decoding()
        self.indices = sample_indices(self.num_frames, self.fps, sampling)
        # The index, which grows with the video, ends here; of the plan only what is sent, a byte per packet, stays.
        self._plan = make_plan(index, self.indices) if index.timed else None
        all_because = index.why_not or (None if index.timed else "presentation times do not identify frames")
        self._method = f"all: {all_because}" if all_because else "sparse"

    def __iter__(self) -> Iterator[tuple[int, float, Rgb]]:
        """(frame number, presentation time in seconds, RGB view (H, W, 3) valid until the next step)."""
        if self._plan is not None:
            try:
                yield from map(self._sampled, self._planned_frames(self._plan))
            except (_PlanFailed, av.error.FFmpegError) as error:
                raise_if_memory(self._name, error)
                self._method = f"all: {reason(error)}"
        if self._taken < len(self.indices):
            yield from map(self._sampled, self._counted_frames())
        if not self._taken:
            raise self._nothing_decoded()

    def summary(self) -> DecodeSummary:
        """Facts about the video; what decoding found out is complete after iteration."""
        assert self._rgb.size is not None, "the summary comes after the first frame"
        width, height = self._rgb.size
        if self._rgb.orientation.transposed:
            width, height = height, width
        damage = self._damage or ("the file was cut short" if self._cut_short else None)
        if damage is None and self._plan is not None and self._taken < len(self.indices):
            damage = f"{len(self.indices) - self._taken} sampled frames could not be decoded"
        return DecodeSummary(
            codec=self._codec,
            fps=self.fps,
            duration_s=self._duration_s,
            num_frames=self.num_frames,
            width=width,
            height=height,
            rotation_applied=self._rgb.orientation.rotation,
            truncated=damage is not None,
            damage=damage,
            method=self._method,
            packets_sent=self._packets_sent,
        )

    def _sampled(self, frame: Any) -> tuple[int, float, Rgb]:
        number = int(self.indices[self._taken])
        self._taken += 1
        check_size(self._name, frame.width, frame.height, self._max_pixels)
        time_s = frame.pts * self._time_base if frame.pts is not None else number / self.fps
        return number, time_s, self._rgb(frame)

    def _planned_frames(self, plan: DecodePlan) -> Iterator[Any]:
        """The wanted frames by their presentation times, decoding what the plan says."""
        # Up to the last packet to send, so that nothing after it is read.
        send, times = plan.send_P.tobytes().rstrip(b"\x00"), plan.wanted_T.tolist()
        kept, self._kept = self._kept, None
        if kept is not None:
            yield from self._picked(times, *kept, send)
        else:
            with open_video(self._source, max_pixels=self._max_pixels) as video:
                yield from self._picked(times, video.stream.codec_context, video.packets(), send)

    def _picked(self, times: list[int], context: Any, packets: Iterable[Any], send: bytes) -> Iterator[Any]:
        position = 0
        for frame in self._decoded(context, packets, send):
            if frame.pts == times[position]:
                yield frame
                position += 1
                if position == len(times):
                    return
            elif frame.pts is None or frame.pts > times[position]:
                break
        raise _PlanFailed("a wanted frame did not come out of the decoder")

    def _counted_frames(self) -> Iterator[Any]:
        """The wanted frames not yet taken, decoding everything and counting; up to the first damage."""
        try:
            with open_video(self._source, max_pixels=self._max_pixels) as video:
                for number, frame in enumerate(self._decoded(video.stream.codec_context, video.packets())):
                    if number == self.indices[self._taken]:
                        yield frame
                        if self._taken == len(self.indices):
                            return
        except av.error.FFmpegError as error:
            raise_if_memory(self._name, error)
            self._damage = reason(error)

    def _count_by_decoding(self) -> int:
        count = 0
        try:
            with open_video(self._source, max_pixels=self._max_pixels) as video:
                for _ in self._decoded(video.stream.codec_context, video.packets()):
                    count += 1
        except av.error.FFmpegError as error:
            raise_if_memory(self._name, error)
            self._damage = reason(error)
        if not count:
            raise self._nothing_decoded()
        return count

    def _decoded(self, context: Any, packets: Iterable[Any], send: bytes | None = None) -> Iterator[Any]:
        """Frames in presentation order from the packets marked in ``send``, or from all."""
        context.thread_count = self._threads
        if self._threads != 1:
            context.thread_type = "AUTO"
        if send is not None:
            packets = itertools.compress(packets, send)
            # Damage must be an error here: what a decoder paints over it depends on everything it decoded before.
            context.options = {"err_detect": "explode"}
        for packet in packets:
            self._packets_sent += 1
            yield from context.decode(packet)
        yield from context.decode(None)

    def _nothing_decoded(self) -> Truncated | Corrupt:
        if self._cut_short:
            return Truncated(f"{self._name}: was cut short before its first frame")
        why = self._damage or "its video stream holds no frames"
        return Corrupt(f"{self._name}: not one frame can be decoded ({why})")


class _PlanFailed(Exception):
    """The plan did not give the frames it promised."""


def _rate_of(index: PacketIndex, time_base: float) -> float:
    """Average rate from presentation times where the container states none; 1 frame per second for a single frame."""
    times: NDArray[np.int64] = index.pts_P[index.order_F]
    span = float(times[-1] - times[0]) * time_base if index.timed and len(times) > 1 else 0.0
    return (len(times) - 1) / span if span > 0 else 1.0


def _duration(video: OpenVideo, index: PacketIndex, fps: float) -> float:
    if index.timed and index.num_frames:
        first, last = index.pts_P[index.order_F[0]], index.pts_P[index.order_F[-1]]
        return float(last - first) * float(video.time_base) + (index.last_duration * float(video.time_base) or 1 / fps)
    return video.duration_s or index.num_frames / fps
