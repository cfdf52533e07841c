"""One pass over the packets of a video, without decoding: what is there, in which order it is shown, what may be left
out.

The index takes some 16 bytes per packet (2 MB for an hour at 30 frames per second) and holds no packet data.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from longvu_model.video.bitstream import DROPPABLE, ENTRY, PARAMETERS, TEMPORAL_ID_SHIFT, rule_for
from longvu_model.video.container import OpenVideo, reason

_DISCARD = 4
_NO_PTS = -(1 << 63)
_PACKET_OVERHEAD = 512
"""Memory of a packet beside its data, in bytes."""
# These containers store no presentation times (AVI) or none at all; FFmpeg's guesses would misplace B-frames.
_WITHOUT_TIMES = frozenset(("avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu", "vc1"))


@dataclass(frozen=True)
class PacketIndex:
    """Packets in decoding order (P of them). Frame numbers count what is shown, in order of presentation time."""

    pts_P: NDArray[np.int64]
    shown_P: NDArray[np.bool_]
    """False for packets that an edit list hides: they are decoded for others, and not counted as frames."""
    entry_P: NDArray[np.bool_]
    droppable_P: NDArray[np.bool_]
    parameters_P: NDArray[np.bool_]
    """Packets that carry parameter sets."""
    order_F: NDArray[np.int32]
    """Packet of each frame: ``order_F[k]`` is the packet of the k-th frame shown."""
    timed: bool
    """Whether presentation times identify frames. If not, only decoding everything tells which frame is which."""
    why_not: str | None
    """Why no packet may be left out; None if the codec's rule applies."""
    last_duration: int
    """Duration of the last packet in time-base units, 0 if unknown."""
    damage: str | None
    """FFmpeg's words if reading stopped before the end of the file."""

    @property
    def num_frames(self) -> int:
        return len(self.order_F)


def read_index(video: OpenVideo, *, keep_bytes: int = 0) -> tuple[PacketIndex, list[Any] | None]:
    """Index the packets of ``video``, reading it to its end (or to where it is damaged).

    The packets themselves are returned too if all of them take less than ``keep_bytes``.
    """
    context = video.stream.codec_context
    rule = rule_for(video.codec, context.extradata, intra_only=context.codec.intra_only)
    pts, flags = array("q"), bytearray()
    kept: list[Any] = []
    first_is_key, last_duration, damage = False, 0, None
    try:
        for packet in video.packets():
            bits = rule.flags(memoryview(packet))
            if packet.is_discard:
                bits |= _DISCARD
            time = packet.pts
            if not pts:
                first_is_key = packet.is_keyframe
            pts.append(_NO_PTS if time is None else time)
            flags.append(bits)
            last_duration = packet.duration or 0
            if keep_bytes > 0:
                keep_bytes -= packet.size + _PACKET_OVERHEAD
                kept.append(packet)
            elif kept:
                kept = []
    except av.error.FFmpegError as error:
        damage = reason(error)
    # Decoders leave out what comes before the first picture they can start from, so such files cannot be counted.
    countable = rule.one_frame_per_packet and video.container.format.name not in _WITHOUT_TIMES and first_is_key
    index = _index(
        np.frombuffer(pts, np.int64),
        np.frombuffer(flags, np.uint8),
        last_duration,
        damage,
        why_not=rule.why_not,
        countable=countable,
    )
    return index, kept if len(kept) == len(pts) else None


def presentation_order(pts_P: NDArray[np.int64]) -> NDArray[np.int32]:
    """Packets (P,) by presentation time."""
    return np.argsort(pts_P, kind="stable").astype(np.int32)


def _index(
    pts_P: NDArray[np.int64],
    flags_P: NDArray[np.uint8],
    last_duration: int,
    damage: str | None,
    *,
    why_not: str | None,
    countable: bool,
) -> PacketIndex:
    shown_P = flags_P & _DISCARD == 0
    entry_P = flags_P & ENTRY != 0
    layer_P = flags_P >> TEMPORAL_ID_SHIFT
    # A picture that its own layer does not need may still serve a higher one, so only the highest may lose pictures.
    droppable_P = (flags_P & DROPPABLE != 0) & (layer_P == layer_P.max(initial=0))
    order_F = presentation_order(pts_P)
    order_F = order_F[shown_P[order_F]]
    timed = bool(
        countable
        and (why_not or entry_P[:1].all())
        and (pts_P != _NO_PTS).all()
        and (np.diff(pts_P[order_F]) > 0).all()
    )
    return PacketIndex(
        pts_P=pts_P,
        shown_P=shown_P,
        entry_P=entry_P,
        droppable_P=droppable_P,
        parameters_P=flags_P & PARAMETERS != 0,
        order_F=order_F if timed else np.sort(order_F),
        timed=timed,
        why_not=why_not,
        last_duration=last_duration,
        damage=damage,
    )
