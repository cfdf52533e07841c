"""Opening a video: what a source is, its best video stream, and FFmpeg's complaints as our closed error set.

Every pass over a video (index, decoding, counting) opens it anew, because the same file then gives the same packets;
seeking does not promise that. Nothing here decodes.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
from av.stream import Discard, Disposition

from longvu_model.video.completeness import is_cut_short, known_container
from longvu_model.video.errors import (
    Corrupt,
    Forbidden,
    Missing,
    NotAVideo,
    TooLarge,
    Truncated,
    Unsupported,
    VideoError,
)

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A local path, the bytes of a file, or a binary file object."""

MAX_PIXELS = 64 << 20
"""Default limit on the pixels of a frame: 8K is 33 million."""

MAX_EDGE_PX = 16384
"""Longest edge of a frame. Frames are padded to a square: a strip that is 100,000 pixels long would take 40 GB."""

# Playlists and descriptions (HLS, DASH, concat, SDP, image sequences) make FFmpeg open further files or addresses that
# an untrusted upload names, so only self-contained containers are read.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,asf,ogg,gif,h264,hevc,"
    "ivf,obu,mxf,nut,rm,dv,wtv,swf,roq,y4m,yuv4mpegpipe,mjpeg,apng,vc1,av1,nsv,mp3,aac,flac,wav"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}


@dataclass(frozen=True)
class OpenVideo:
    """An open container with its best video stream; the other streams are not read."""

    name: str
    container: Any
    stream: Any
    cut_short: bool
    """Whether the file ends before its container says so."""

    @property
    def time_base(self) -> Fraction:
        return self.stream.time_base

    @property
    def codec(self) -> str:
        """Canonical name of the codec, whichever decoder reads it: ``av1``, not ``libdav1d``."""
        return self.stream.codec_context.codec.canonical_name

    @property
    def avg_fps(self) -> float | None:
        """Average frame rate in frames per second as the container reports it; None if it does not."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    @property
    def duration_s(self) -> float | None:
        """Duration in seconds as the container reports it; None if it does not."""
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        return self.container.duration / av.time_base if self.container.duration else None

    def packets(self) -> Iterator[Any]:
        """Packets in decoding order, without empty ones (they would end the decoder) and without a cut-off last one."""
        held = None
        for packet in self.container.demux(self.stream):
            if not packet.size:
                continue
            if held is not None:
                yield held
            held = packet
        if held is not None and not held.is_corrupt:
            yield held


def source_name(source: Source) -> str:
    """How messages call a source."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>"
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    return repr(str(getattr(source, "name", "<file object>")))


@contextmanager
def binary_file(source: Source) -> Iterator[BinaryIO]:
    """The source as a seekable binary file at its start.

    Raises:
        Missing, Forbidden, NotAVideo: no such file, not readable, a folder.
        ValueError: ``source`` is of no kind that ``Source`` lists.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        try:
            # Opening a pipe or reading a device may never end.
            if stat.S_IFMT(os.stat(source).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise NotAVideo(f"{source_name(source)}: is not a regular file; give a video file")
            file = open(source, "rb")  # noqa: SIM115 - closed by the `with` below; errors of the body are not ours
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{source_name(source)}: no such file; check the path") from None
        except PermissionError:
            raise Forbidden(f"{source_name(source)}: not allowed to read it; check its permissions") from None
        except IsADirectoryError:
            raise NotAVideo(f"{source_name(source)}: is a folder; give a video file") from None
        with file:
            yield file
    elif hasattr(source, "read") and hasattr(source, "seek") and source.seekable():
        source.seek(0)
        yield source
    else:
        raise ValueError(
            f"a video source must be a path, bytes or a seekable binary file object, not {type(source).__name__}"
        )


@contextmanager
def open_video(source: Source, *, max_pixels: int = MAX_PIXELS) -> Iterator[OpenVideo]:
    """Open the best video stream of ``source``.

    Raises:
        NotAVideo, Unsupported, Truncated, Corrupt, TooLarge, Missing, Forbidden: as their docstrings say.
        ValueError: ``source`` is of no kind that ``Source`` lists.
    """
    name = source_name(source)
    with binary_file(source) as file:
        # A path goes to FFmpeg as a path: its own reader costs less than calls back into Python. "file:" keeps it from
        # reading a colon in the name as a protocol.
        target = f"file:{os.fspath(source)}" if isinstance(source, str | os.PathLike) else file
        cut_short = is_cut_short(file)
        file.seek(0)
        try:
            container = av.open(target, container_options=_OPTIONS, metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise _opening_error(name, file, cut_short, error) from error
        with container:
            video = OpenVideo(name, container, _best_stream(name, container, cut_short), cut_short)
            check_size(name, video.stream.codec_context.width, video.stream.codec_context.height, max_pixels)
            yield video


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Raise ``TooLarge`` for a frame of more than ``max_pixels`` pixels, or with an edge beyond :data:`MAX_EDGE_PX`."""
    if max(width, height) > MAX_EDGE_PX:
        raise TooLarge(
            f"{name}: frames of {width}x{height} have an edge of more than {MAX_EDGE_PX} pixels; scale the video down"
        )
    if width * height > max_pixels:
        raise TooLarge(
            f"{name}: frames of {width}x{height} have {width * height} pixels, allowed are {max_pixels}; "
            "scale the video down or raise max_pixels"
        )


def _best_stream(name: str, container: Any, cut_short: bool) -> Any:
    stream = container.streams.best("video")
    if cut_short and not container.streams.audio and (stream is None or stream.codec_context is None):
        raise Truncated(f"{name}: was cut short before its first frame")
    if stream is None or stream.disposition & Disposition.attached_pic:
        kinds = ", ".join(sorted({other.type for other in container.streams})) or "no streams"
        what = "a cover picture and no video" if stream is not None else f"no video stream (it holds: {kinds})"
        raise NotAVideo(f"{name}: has {what}; give a file with moving pictures")
    if stream.codec_context is None:
        raise Unsupported(f"{name}: no decoder for its video codec; convert it, for example to H.264")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _opening_error(name: str, file: BinaryIO, cut_short: bool, error: Exception) -> VideoError:
    raise_if_memory(name, error)
    file.seek(0, io.SEEK_END)
    size = file.tell()
    if size == 0:
        return NotAVideo(f"{name}: is empty (0 bytes)")
    container = known_container(file)
    if container is None:
        return NotAVideo(f"{name}: is not a video: no known container begins like this file ({size} bytes)")
    if cut_short or isinstance(error, av.error.EOFError):
        return Truncated(f"{name}: this {container} file was cut short before its first frame ({size} bytes are left)")
    if isinstance(error, av.error.InvalidDataError):
        return Corrupt(f"{name}: begins as {container}, but its header is damaged ({reason(error)})")
    return Unsupported(f"{name}: this {container} file cannot be opened ({reason(error)})")


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error without its number and file name."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def raise_if_memory(name: str, error: BaseException) -> None:
    """Raise ``TooLarge`` if FFmpeg could not get memory: that says nothing about the file being damaged."""
    if isinstance(error, MemoryError):
        raise TooLarge(f"{name}: decoding needs more memory than it may have; raise the limit or scale down") from error
