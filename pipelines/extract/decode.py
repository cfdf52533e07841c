"""Decode a unit: every sampled frame of its members, padded or cropped and resized to what the towers take.

The resize is the last step before normalisation in which frames are rounded to 8 bits, so resized frames lose nothing
as 8 bits and are a tenth of the decoded ones. It is done in the decoding child, which saves their way through a pipe.
Where a tower's frames are resized in floating point, they are made floats here, of whole frames. A source that cannot
be used becomes a member with an error, never an exception.

Shapes: T sampled frames of the unit, s input side of a tower.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longvu_model.tower_pixels import TowerPixels
from longvu_model.video import (
    Corrupt,
    DecodeSummary,
    FrameBlock,
    FrameSampling,
    Timeout,
    Truncated,
    Unsupported,
    VideoError,
)
from longvu_model.video.decode import Backend
from longvu_model.video.supervised import supervised_blocks
from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.config import DecodeConfig
from pipelines.extract.families import FramePixels
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import IMAGE, VIDEO
from pipelines.extract.plan import Member, Unit
from pipelines.extract.stage_columns import StageFrames
from pipelines.store.schema import FAILED, OK, TRUNCATED, WINDOW_FRAMES

_JPEG_QUALITY = 80


@dataclass(frozen=True)
class DecodeSettings:
    """What decode actors know.

    Args:
        sampling: text of the sampling rule.
        pixels: input of each tower by feature name, of frames of videos.
        jpeg_edge_px: longer edge of thumbnails; 0 for none.
        decode: deadlines and limits.
        stage_edges_px: longer edges of the frames that users' stages take.
        image_pixels: as ``pixels``, of pictures, where they differ.
    """

    sampling: str
    pixels: Mapping[str, TowerPixels | FramePixels]
    jpeg_edge_px: int
    decode: DecodeConfig
    stage_edges_px: tuple[int, ...] = ()
    image_pixels: Mapping[str, TowerPixels | FramePixels] = field(default_factory=dict)

    @property
    def shows_frames(self) -> bool:
        """Whether more is made of the frames than what the towers take."""
        return bool(self.jpeg_edge_px or self.stage_edges_px)

    def pixels_of(self, kind: str) -> dict[str, TowerPixels | FramePixels]:
        """Input of each tower of a video or picture."""
        return {**self.pixels, **(self.image_pixels if kind == IMAGE else {})}


class _Frames:
    """Frames of one tower in one array, which grows when a container promised too few."""

    def __init__(self, pixels: TowerPixels | FramePixels, expected: int):
        squares = isinstance(pixels, TowerPixels)
        shape = (pixels.size, pixels.size, 3) if squares else (3, pixels.size, pixels.size)
        self._array = np.empty((expected, *shape), np.uint8 if squares else np.float32)
        self.count = 0

    def extend(self, frames: np.ndarray) -> None:
        end = self.count + len(frames)
        if end > len(self._array):
            room = np.empty((max(WINDOW_FRAMES, end // 2), *self._array.shape[1:]), self._array.dtype)
            self._array = np.concatenate([self._array, room])
        self._array[self.count : end] = frames
        self.count = end

    @property
    def array(self) -> np.ndarray:
        return self._array[: self.count]


@dataclass
class _Collected:
    """What the members of a unit have given so far."""

    frames: dict[str, _Frames]
    stages: StageFrames
    frame_index: list[int] = field(default_factory=list)
    pts_s: list[float] = field(default_factory=list)
    jpegs: list[bytes] = field(default_factory=list)

    def add(self, block: FrameBlock, settings: DecodeSettings, kind: str) -> None:
        squares = iter(block.squares)
        for name, pixels in settings.pixels_of(kind).items():
            made = next(squares) if isinstance(pixels, TowerPixels) else pixels.normalized(block.frames)
            self.frames[name].extend(made)
        if settings.shows_frames:
            for picture in map(Image.fromarray, block.frames):
                if settings.jpeg_edge_px:
                    self.jpegs.append(_thumbnail(picture, settings.jpeg_edge_px))
                self.stages.add(picture)
        self.frame_index += block.indices.tolist()
        self.pts_s += block.pts_s.tolist()

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` frames, those before the current member's."""
        self.stages.clear()
        for frames in self.frames.values():
            frames.count = length
        for column in (self.frame_index, self.pts_s, self.jpegs):
            del column[length:]


def decode_unit(unit: Unit, settings: DecodeSettings, fetcher: Fetcher) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Decode all members of a unit.

    Args:
        fetcher: brings sources to this machine; used again for the next unit.

    Returns:
        header with ``unit_id`` and ``members`` (a videos row each, without the columns that have a value per frame,
        plus total_samples), and arrays: one uint8 (T, s, s, 3) or float32 (T, 3, s, s) per tower, frame_index int64
        (T,), pts_s float64 (T,), and with thumbnails jpeg uint8 (bytes,) and jpeg_bytes int64 (T,); for stages the
        arrays of ``StageFrames``.
    """
    expected = sum(member.expected_samples or 0 for member in unit.members)
    towers = {name: _Frames(pixels, expected) for name, pixels in settings.pixels.items()}
    collected = _Collected(towers, StageFrames(settings.stage_edges_px))
    members = [_decode_member(member, settings, collected, fetcher) for member in unit.members]
    arrays = {name: frames.array for name, frames in collected.frames.items()} | collected.stages.arrays()
    arrays["frame_index"] = np.array(collected.frame_index, np.int64)
    arrays["pts_s"] = np.array(collected.pts_s, np.float64)
    if settings.jpeg_edge_px:
        arrays["jpeg"] = np.frombuffer(b"".join(collected.jpegs), np.uint8)
        arrays["jpeg_bytes"] = np.array([len(jpeg) for jpeg in collected.jpegs], np.int64)
    return {"unit_id": unit.unit_id, "members": members}, arrays


def _decode_member(member: Member, settings: DecodeSettings, collected: _Collected, fetcher: Fetcher) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(member, name) for name in _FROM_MEMBER} | {"video_id": None, "attempts": 0}
    before = len(collected.frame_index)
    collected.stages.begin(member.expected_samples)
    try:
        fetched = fetcher.fetch(member)
    except VideoError as error:
        return row | _failed([("", error)]) | {"num_sampled": 0}
    row["video_id"] = fetched.video_id
    row |= _decode_patiently(fetched.path, member, settings, collected)
    return row | {"num_sampled": len(collected.frame_index) - before}


_FROM_MEMBER = (
    "source",
    "size_bytes",
    "version",
    "chunk",
    "num_chunks",
    "first_sample",
    "total_samples",
    "kind",
    "retry",
)


def _decode_patiently(path: Path, member: Member, settings: DecodeSettings, collected: _Collected) -> dict[str, Any]:
    """Decode a member's part of a file: in smaller blocks where memory is short, by another decoder where one gives up.

    Returns:
        the columns that tell how it went; failures too are told here.
    """
    before = len(collected.frame_index)
    failures: list[tuple[str, VideoError]] = []
    for decoder in _decoders(settings.decode.backend, member):
        block_frames = WINDOW_FRAMES
        while block_frames:
            try:
                summary = _decode_file(path, member, settings, collected, decoder, block_frames)
                row = {"status": OK, "decoder": decoder, "attempts": len(failures) + 1}
                sampled = len(collected.frame_index) - before
                return row | (_facts(summary) | _damage(summary, member, sampled) if summary else {})
            except VideoError as error:
                collected.cut(before)
                failures.append((decoder, error))
                block_frames = block_frames // 2 if error.out_of_memory else 0
        if failures[-1][1].code not in _SECOND_OPINION:
            break
    return _failed(failures) | {"attempts": len(failures)}


# What another decoder may see otherwise. Not Truncated: without its index a file is no use to either.
_SECOND_OPINION = frozenset(error.code for error in (Corrupt, Timeout, Unsupported))


def _decoders(first: Backend, member: Member) -> Iterator[Backend]:
    yield first
    other: Backend = "decord" if first == "pyav" else "pyav"
    if member.kind == VIDEO and (other == "pyav" or importlib.util.find_spec("decord")):
        yield other


def _failed(failures: Sequence[tuple[str, VideoError]]) -> dict[str, Any]:
    """The first decoder names the cause; what the others said follows."""
    (_, cause), *others = failures
    said = [
        cause.message,
        *(f"{decoder}: {error.message}" for decoder, error in others if error.message != cause.message),
    ]
    logs = (f"{decoder}: {error.log_tail}" for decoder, error in failures if error.log_tail)
    return {
        "status": FAILED,
        "error": cause.code,
        "message": "; ".join(said),
        "log_tail": "\n".join(logs) or None,
        "decoder": failures[-1][0] or None,
    }


def _decode_file(
    path: Path,
    member: Member,
    settings: DecodeSettings,
    collected: _Collected,
    decoder: Backend,
    block_frames: int,
) -> DecodeSummary | None:
    """Decode one member's part of a file; None where a later part turns out to hold nothing."""
    # Of an animation that was listed as an image, the first frame.
    sampling = FrameSampling(num_frames=1) if member.kind == IMAGE else FrameSampling.parse(settings.sampling)
    if member.num_chunks > 1:
        start_s = sampling.start_s if member.start_s is None else member.start_s
        end_s = sampling.end_s if member.end_s is None else member.end_s
        sampling = dataclasses.replace(sampling, start_s=start_s, end_s=end_s)
    limits = settings.decode
    towers = settings.pixels_of(member.kind).values()
    squares = [(pixels.size, pixels.fill) for pixels in towers if isinstance(pixels, TowerPixels)]
    try:
        stream = supervised_blocks(
            path,
            sampling,
            deadline_s=limits.deadline_s,
            max_pixels=limits.max_pixels,
            block_frames=block_frames,
            backend=decoder,
            squares=squares,
            whole=settings.shows_frames or len(squares) < len(towers),
        )
        for block in stream:
            collected.add(block, settings, member.kind)
    except VideoError as error:
        error.message = error.message.replace(str(path), storage.shown(member.source))
        raise
    except ImportError as error:
        raise UserError(f"decode.backend={decoder}: {error}") from None
    except ValueError as error:
        if member.chunk:
            return None
        raise Unsupported(f"{storage.shown(member.source)}: {error}") from None
    return stream.summary


def _facts(summary: DecodeSummary) -> dict[str, Any]:
    """Columns of the videos table, and what ``longvu probe`` tells besides."""
    names = ("codec", "width", "height", "fps", "duration_s", "rotation_applied", "method")
    return {name: getattr(summary, name) for name in names}


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
