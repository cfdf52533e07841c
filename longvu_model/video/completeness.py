"""Does a file end where its container says it should? Read from the outermost structure alone.

A file cut in half often decodes without any complaint, as if it were a shorter video. Containers that state their
size tell; the others (MPEG-TS, Ogg, raw streams) do not.
"""

from __future__ import annotations

import io
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"uuid"))


def known_container(file: BinaryIO) -> str | None:
    """Name of the container that the first bytes announce; None if they announce none that this file knows."""
    file.seek(0)
    head = file.read(16)
    if head[4:8] in _MP4_BOXES:
        return "MP4"
    if head.startswith(_EBML):
        return "Matroska"
    if head.startswith(b"RIFF"):
        return "RIFF"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"FLV"):
        return "FLV"
    if head.startswith(b"OggS"):
        return "Ogg"
    return None


def is_cut_short(file: BinaryIO) -> bool:
    """True if the container states more bytes than the file has; False if it agrees or does not say."""
    container = known_container(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if container == "MP4":
        return _boxes_end(file, size) > size
    if container == "Matroska":
        return (_segment_end(file) or 0) > size
    if container == "RIFF":
        return 8 + int.from_bytes(file.read(8)[4:], "little") > size
    if container == "GIF":
        file.seek(max(0, size - 64))
        return b"\x3b" not in file.read().rstrip(b"\x00")[-1:]
    return False


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the top-level boxes of an MP4 file end, past ``size`` if the last one is cut; without moov also past it."""
    position, has_index = 0, False
    while position < size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if len(header) < 8:
            return size + 1
        has_index = has_index or kind in (b"moov", b"moof")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - position
        if length < 8:
            return size  # not a box: damaged rather than cut
        position += length
    return position if has_index else size + 1


def _segment_end(file: BinaryIO) -> int | None:
    """Where the segment of a Matroska file ends; None if its size is unknown, as in live recordings."""
    file.seek(4)
    header_size = _variable_int(file)
    if header_size is None:
        return None
    file.seek(header_size, io.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    segment_size = _variable_int(file)
    return None if segment_size is None else file.tell() + segment_size


def _variable_int(file: BinaryIO) -> int | None:
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    raw = file.read(extra)
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + raw, "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value
