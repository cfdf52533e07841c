"""decord as the second backend: frame numbers and pixels exactly as the published code reads them.

It is chosen by name, as a second opinion. It cannot open AV1 or GIF, fails on some valid files and may hang on damaged
ones, so run it supervised (``supervised.py``). The package is optional and imported on first use.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from longvu_model.video.container import Source
from longvu_model.video.errors import Corrupt, Unsupported
from longvu_model.video.frames import DecodeSummary, Rgb
from longvu_model.video.probe import probe
from longvu_model.video.sampling import FrameSampling, sample_indices

_BATCH = 8


class DecordFrames:
    """The sampled frames of one video as decord gives them; iterate once.

    Raises:
        VideoError: as for the default backend, and ``Unsupported`` for what decord cannot open.
        ImportError: decord is not installed.
        ValueError: the sampling rule does not fit the video.
    """

    def __init__(self, source: Source, sampling: FrameSampling, *, threads: int, max_pixels: int) -> None:
        # decord's own complaints name neither file nor reason, so what is wrong with the file is found out first.
        self._info = probe(source, max_pixels=max_pixels)
        self._error, reader = _decord()
        self._name = self._info.name
        opened = os.fspath(source) if isinstance(source, str | os.PathLike) else _in_memory(source)
        try:
            self._reader = reader(opened, num_threads=threads)
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
        except self._error as error:
            raise Unsupported(
                f"{self._name}: decord cannot open this {self._info.codec} video ({_first_line(error)}); "
                "use backend='pyav'"
            ) from error
        self.indices = sample_indices(self.num_frames, self.fps, sampling)
        self._size = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, float, Rgb]]:
        """(frame number, presentation time in seconds, RGB (H, W, 3))."""
        for start in range(0, len(self.indices), _BATCH):
            numbers = self.indices[start : start + _BATCH].tolist()
            try:
                frames = self._reader.get_batch(numbers).asnumpy()
                times_s = self._reader.get_frame_timestamp(numbers)[:, 0].tolist()
            except self._error as error:
                raise Corrupt(f"{self._name}: decord cannot decode frames {numbers} ({_first_line(error)})") from error
            self._size = frames.shape[2], frames.shape[1]
            yield from zip(numbers, times_s, frames, strict=True)

    def summary(self) -> DecodeSummary:
        """Facts about the video; its size is known after iteration."""
        return DecodeSummary(
            codec=self._info.codec,
            fps=self.fps,
            duration_s=self._info.duration_s or self.num_frames / self.fps,
            num_frames=self.num_frames,
            width=self._size[0],
            height=self._size[1],
            rotation_applied=self._info.rotation,
            truncated=self._info.truncated,
            damage="the file was cut short" if self._info.truncated else None,
            method="decord",
            packets_sent=self.num_frames,
        )


def _decord() -> tuple[type[Exception], Any]:
    try:
        import decord
    except ImportError as error:
        raise ImportError("backend='decord' needs the decord package: install it or use backend='pyav'") from error
    return decord.DECORDError, decord.VideoReader


def _in_memory(source: Any) -> io.BytesIO:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    source.seek(0)
    return io.BytesIO(source.read())


def _first_line(error: Exception) -> str:
    """The first line of decord's message without its time stamp and place in the C++ source."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    return line.rsplit("] ", 1)[-1].strip() or line
