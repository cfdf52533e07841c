"""Decode a unit: every sampled frame of its members, padded and resized to what the towers take, still 8 bits.

The resize is the last step before normalisation in which frames are rounded to 8 bits, so resized frames lose nothing
and are a tenth of the decoded ones. A source that cannot be used becomes a member with an error, never an exception.

Shapes: T sampled frames of the unit, s input side of a tower.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longvu_model.tower_pixels import TowerPixels, padded_square
from longvu_model.video import (
    DecodeSummary,
    Forbidden,
    FrameBlock,
    FrameSampling,
    Missing,
    NotAVideo,
    Truncated,
    Unsupported,
    VideoError,
)
from longvu_model.video.supervised import supervised_blocks
from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.config import DecodeConfig
from pipelines.extract.plan import Member, Unit
from pipelines.store.schema import FAILED, OK, TRUNCATED, WINDOW_FRAMES

_JPEG_QUALITY = 80


@dataclass(frozen=True)
class DecodeSettings:
    """What decode actors know.

    Args:
        sampling: text of the sampling rule.
        pixels: input of each tower by feature name.
        jpeg_edge_px: longer edge of thumbnails; 0 for none.
        decode: deadlines and limits.
    """

    sampling: str
    pixels: Mapping[str, TowerPixels]
    jpeg_edge_px: int
    decode: DecodeConfig


class _Frames:
    """Frames of one tower in one array, which grows when a container promised too few."""

    def __init__(self, size: int, expected: int):
        self._array = np.empty((expected, size, size, 3), np.uint8)
        self.count = 0

    def append(self, frame_HWC: np.ndarray) -> None:
        if self.count == len(self._array):
            room = np.empty((max(WINDOW_FRAMES, self.count // 2), *self._array.shape[1:]), np.uint8)
            self._array = np.concatenate([self._array, room])
        self._array[self.count] = frame_HWC
        self.count += 1

    @property
    def array(self) -> np.ndarray:
        return self._array[: self.count]


@dataclass
class _Collected:
    """What the members of a unit have given so far."""

    frames: dict[str, _Frames]
    frame_index: list[int] = field(default_factory=list)
    pts_s: list[float] = field(default_factory=list)
    jpegs: list[bytes] = field(default_factory=list)

    def add(self, block: FrameBlock, settings: DecodeSettings) -> None:
        for frame_HWC in block.frames:
            picture = Image.fromarray(frame_HWC)
            for name, pixels in settings.pixels.items():
                self.frames[name].append(np.asarray(padded_square(picture, pixels.size, pixels.fill)))
            if settings.jpeg_edge_px:
                self.jpegs.append(_thumbnail(picture, settings.jpeg_edge_px))
        self.frame_index += block.indices.tolist()
        self.pts_s += block.pts_s.tolist()

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` frames."""
        for frames in self.frames.values():
            frames.count = length
        for column in (self.frame_index, self.pts_s, self.jpegs):
            del column[length:]


def decode_unit(unit: Unit, settings: DecodeSettings) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Decode all members of a unit.

    Returns:
        header with ``unit_id`` and ``members`` (a videos row each, without the columns that have a value per frame,
        plus total_samples), and arrays: one uint8 (T, s, s, 3) per tower, frame_index int64 (T,), pts_s float64 (T,),
        and with thumbnails jpeg uint8 (bytes,) and jpeg_bytes int64 (T,).
    """
    expected = sum(member.expected_samples or 0 for member in unit.members)
    collected = _Collected({name: _Frames(pixels.size, expected) for name, pixels in settings.pixels.items()})
    members = [_decode_member(member, settings, collected) for member in unit.members]
    arrays = {name: frames.array for name, frames in collected.frames.items()}
    arrays["frame_index"] = np.array(collected.frame_index, np.int64)
    arrays["pts_s"] = np.array(collected.pts_s, np.float64)
    if settings.jpeg_edge_px:
        arrays["jpeg"] = np.frombuffer(b"".join(collected.jpegs), np.uint8)
        arrays["jpeg_bytes"] = np.array([len(jpeg) for jpeg in collected.jpegs], np.int64)
    return {"unit_id": unit.unit_id, "members": members}, arrays


def _decode_member(member: Member, settings: DecodeSettings, collected: _Collected) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(member, name) for name in _FROM_MEMBER}
    row["total_samples"] = member.total_samples
    row |= {"video_id": None, "status": OK, "error": None, "message": None}
    before = len(collected.frame_index)
    try:
        with _as_video_errors(member), storage.local_copy(member.source, settings.decode.scratch) as path:
            row["video_id"] = storage.sha256(storage.resolve(path))
            summary = _decode_file(path, member, settings, collected)
            if summary is not None:
                row |= _facts(summary)
                row |= _damage(summary, member, len(collected.frame_index) - before)
    except VideoError as error:
        collected.cut(before)
        row |= {"status": FAILED, "error": error.code, "message": error.message}
    row["num_sampled"] = len(collected.frame_index) - before
    return row


_FROM_MEMBER = ("source", "size_bytes", "version", "chunk", "num_chunks", "first_sample")


@contextlib.contextmanager
def _as_video_errors(member: Member) -> Iterator[None]:
    """Failures to reach the source as the decoder's own error classes."""
    name = storage.shown(member.source)
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(f"{name}: no such file; it was there, or listed, when the run began") from None
    except PermissionError:
        raise Forbidden(f"{name}: not allowed to read it; check its permissions") from None
    except IsADirectoryError:
        raise NotAVideo(f"{name}: is a folder") from None


def _decode_file(path: Path, member: Member, settings: DecodeSettings, collected: _Collected) -> DecodeSummary | None:
    """Decode one member's part of a file; None where a later part turns out to hold nothing."""
    sampling = FrameSampling.parse(settings.sampling)
    if member.num_chunks > 1:
        start_s = sampling.start_s if member.start_s is None else member.start_s
        end_s = sampling.end_s if member.end_s is None else member.end_s
        sampling = dataclasses.replace(sampling, start_s=start_s, end_s=end_s)
    limits = settings.decode
    try:
        stream = supervised_blocks(
            path,
            sampling,
            deadline_s=limits.deadline_s,
            max_pixels=limits.max_pixels,
            block_frames=WINDOW_FRAMES,
            backend=limits.backend,
        )
        for block in stream:
            collected.add(block, settings)
    except VideoError as error:
        error.message = error.message.replace(str(path), storage.shown(member.source))
        raise
    except ImportError as error:
        raise UserError(f"decode.backend={limits.backend}: {error}") from None
    except ValueError as error:
        if member.chunk:
            return None
        raise Unsupported(f"{storage.shown(member.source)}: {error}") from None
    return stream.summary


def _facts(summary: DecodeSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in ("codec", "width", "height", "fps", "duration_s")}


def _damage(summary: DecodeSummary, member: Member, num_sampled: int) -> dict[str, Any]:
    """A damaged file is truncated; of its parts only the one where the good prefix ends is."""
    complete = member.expected_samples is not None and num_sampled >= member.expected_samples
    if not summary.truncated or (complete and member.chunk < member.num_chunks - 1):
        return {}
    message = f"{storage.shown(member.source)}: {summary.damage}; the frames before it are used"
    return {"status": TRUNCATED, "error": Truncated.code, "message": message}


def _thumbnail(picture: Image.Image, edge_px: int) -> bytes:
    small = picture.copy()
    small.thumbnail((edge_px, edge_px))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
