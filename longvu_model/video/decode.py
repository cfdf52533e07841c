"""Decoding sampled frames: whole, or in blocks with memory that does not grow with the length of the video."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from longvu_model.video.container import MAX_PIXELS, Source, source_name
from longvu_model.video.errors import TooLarge
from longvu_model.video.frames import DecodedVideo, DecodeSummary, FrameBlock, Rgb
from longvu_model.video.pictures import PictureFrames, is_picture
from longvu_model.video.sampling import FrameSampling
from longvu_model.video.sparse import SparseFrames

Backend = Literal["pyav", "decord"]

MAX_BYTES = 16 << 30
"""Default limit on the frames that ``decode_frames`` returns: 2,000 frames of 1080p take 12 GB."""
_MAX_BLOCK_BYTES = 64 << 20
_MAPPED_BYTES = 32 << 20
"""Below this the C library may hand out memory it still has, without touching new pages."""


class SampledFrames(Protocol):
    """What a backend gives: planned frame numbers, the frames one by one, and then the facts."""

    indices: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[int, float, Rgb]]: ...

    def summary(self) -> DecodeSummary: ...


class FrameStream:
    """Blocks of sampled frames; iterate once. ``indices`` are planned, a damaged file may give a prefix of them."""

    def __init__(self, frames: SampledFrames, block_frames: int) -> None:
        self._frames, self._block_frames = frames, block_frames
        self._summary: DecodeSummary | None = None
        self.indices = frames.indices

    @property
    def summary(self) -> DecodeSummary:
        """The facts about the video. Raises ``RuntimeError`` before the last block has been taken."""
        if self._summary is None:
            raise RuntimeError("the summary of a video is complete only after its last block; iterate to the end first")
        return self._summary

    def __iter__(self) -> Iterator[FrameBlock]:
        block: _Stack | None = None
        left = len(self.indices)
        for number, time_s, picture in self._frames:
            if block is None:
                size = min(self._block_frames, max(1, _MAX_BLOCK_BYTES // picture.nbytes), left)
                block = _Stack(size, picture)
            block.add(number, time_s, picture)
            left -= 1
            if block.full:
                yield FrameBlock(*block.arrays())
                block = None
        if block is not None:
            yield FrameBlock(*block.arrays())
        self._summary = self._frames.summary()


def decode_frames(
    source: Source,
    sampling: FrameSampling | str | None = None,
    *,
    backend: Backend = "pyav",
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> DecodedVideo:
    """Sampled frames of a video, animation or picture, bit-identical to decoding everything and picking.

    Args:
        source: local path, bytes or seekable binary file object.
        sampling: rule or its text such as ``"fps:1"``; default one frame per second.
        backend: ``pyav`` (exact, sparse) or ``decord`` (as the published code reads).
        threads: decoder threads.
        max_pixels: limit on the pixels of a frame.
        max_bytes: limit on the size of the result.

    Returns:
        frames uint8 (T, H, W, 3) RGB, upright; frame numbers; times; summary. A truncated file gives its good prefix.

    Raises:
        VideoError: one of the eight named failures.
        ValueError: bad sampling rule, backend or source.
    """
    frames = _open(source, sampling, backend, threads, max_pixels)
    stack: _Stack | None = None
    for number, time_s, picture in frames:
        if stack is None:
            size_bytes = len(frames.indices) * picture.nbytes
            if size_bytes > max_bytes:
                raise TooLarge(
                    f"{source_name(source)}: {len(frames.indices)} frames of {picture.shape[1]}x{picture.shape[0]} "
                    f"take {size_bytes} bytes, allowed are {max_bytes}; sample fewer frames, or take them in blocks "
                    "with iter_frame_blocks"
                )
            stack = _Stack(len(frames.indices), picture)
        stack.add(number, time_s, picture)
    assert stack is not None, "backends raise when there is no frame"
    return DecodedVideo(*stack.arrays(), frames.summary())


def iter_frame_blocks(
    source: Source,
    sampling: FrameSampling | str | None = None,
    *,
    block_frames: int = 16,
    backend: Backend = "pyav",
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> FrameStream:
    """As ``decode_frames``, in blocks of up to ``block_frames`` frames (fewer where frames are large).

    Memory stays flat: one block and what the decoder holds, however long the video is. ``stream.summary`` has the
    facts after the last block.

    Raises:
        VideoError: on opening or while iterating.
        ValueError: bad sampling rule, backend, block size or source.
    """
    if block_frames < 1:
        raise ValueError(f"block_frames={block_frames} must be at least 1")
    return FrameStream(_open(source, sampling, backend, threads, max_pixels), block_frames)


def _open(
    source: Source, sampling: FrameSampling | str | None, backend: str, threads: int, max_pixels: int
) -> SampledFrames:
    rule = FrameSampling() if sampling is None else FrameSampling.parse(sampling)
    if backend not in ("pyav", "decord"):
        raise ValueError(f"backend={backend!r} must be 'pyav' or 'decord'")
    if is_picture(source):
        return PictureFrames(source, rule, max_pixels=max_pixels)
    if backend == "pyav":
        return SparseFrames(source, rule, threads=threads, max_pixels=max_pixels)
    from longvu_model.video.decord_backend import DecordFrames  # decord is optional

    return DecordFrames(source, rule, threads=threads, max_pixels=max_pixels)


class _Stack:
    """Room for a known number of frames, filled one by one: each picture is copied once, to where it stays."""

    def __init__(self, size: int, picture: Rgb) -> None:
        self._frames = _empty_pictures((size, *picture.shape))
        self._indices, self._times_s = np.empty(size, np.int64), np.empty(size, np.float64)
        self._filled = 0

    @property
    def full(self) -> bool:
        return self._filled == len(self._frames)

    def add(self, number: int, time_s: float, picture: Rgb) -> None:
        self._frames[self._filled] = picture
        self._indices[self._filled], self._times_s[self._filled] = number, time_s
        self._filled += 1

    def arrays(self) -> tuple[Rgb, NDArray[np.int64], NDArray[np.float64]]:
        return self._frames[: self._filled], self._indices[: self._filled], self._times_s[: self._filled]


def _empty_pictures(shape: tuple[int, ...]) -> Rgb:
    """Uninitialised uint8 array.

    Large ones are mapped by hand, with their pages filled in at once: numpy asks for huge pages, which on a virtual
    machine took a fifth of the time of decoding a 720p video (``tests/benchmarks/decode.py``).
    """
    size_bytes = math.prod(shape)
    if size_bytes < _MAPPED_BYTES or not hasattr(mmap, "MAP_POPULATE"):
        return np.empty(shape, np.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    try:
        pages = mmap.mmap(-1, size_bytes, flags=flags)
    except OSError as error:
        raise MemoryError(f"{size_bytes} bytes for frames: {error}") from error
    return np.frombuffer(pages, np.uint8).reshape(shape)
