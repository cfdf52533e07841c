"""What the first bytes of a packet say about the picture in it, without decoding it.

Two questions matter to the planner: can decoding start at this packet (ENTRY), and does any other picture need it
(DROPPABLE if not). H.264 and HEVC answer both in the header of a network abstraction layer (NAL) unit, H.264 in
ITU-T H.264 7.4.1 (``nal_ref_idc``), HEVC in ITU-T H.265 7.4.2.2 (type and TemporalId). Codecs whose pictures stand
alone need no look. For every other codec, and for interlaced H.264, there is no rule here and everything is decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

ENTRY = 1
"""Decoding can start here and nothing decoded later needs anything decoded earlier."""
DROPPABLE = 2
"""No picture of the same or a lower temporal layer refers to this one."""
PARAMETERS = 8
"""Carries parameter sets, which hold until others replace them, also past the next entry."""
TEMPORAL_ID_SHIFT = 5
"""The temporal layer of the picture, 0 to 6, is kept in the flags from this bit on."""

PacketData = bytes | memoryview
NalOffsets = Callable[[PacketData], Iterator[int]]


class BitstreamRule(ABC):
    """Reads the flags of one packet after another."""

    why_not: str | None = None
    """Why the flags may not be used; None while they may."""
    one_frame_per_packet: bool = True
    """False where two packets may make one frame, so that packets cannot be counted as frames."""

    @abstractmethod
    def flags(self, data: PacketData) -> int:
        """Flags of the next packet in decoding order."""


class NoRule(BitstreamRule):
    """A codec whose packets are not looked into: all of them are decoded."""

    def __init__(self, codec: str) -> None:
        self.why_not = f"no rule for {codec}"

    def flags(self, data: PacketData) -> int:
        return 0


class StillPictures(BitstreamRule):
    """Codecs whose every picture stands alone."""

    def flags(self, data: PacketData) -> int:
        return ENTRY | DROPPABLE


class MotionJpeg(BitstreamRule):
    """Pictures that bring their own quantisation (DQT) and Huffman (DHT) tables stand alone; others borrow them."""

    def flags(self, data: PacketData) -> int:
        head = bytes(data[:4096])
        return ENTRY | DROPPABLE if b"\xff\xdb" in head and b"\xff\xc4" in head else 0


class H264(BitstreamRule):
    """Non-reference pictures are droppable, IDR pictures are entries; recovery points (open GOP) are not.

    Only progressive streams: in an interlaced one a packet may hold one field of a pair, and dropping one spoils the
    other.
    """

    _PARAMETER_SETS = frozenset((7, 8, 13, 15))

    def __init__(self, extradata: bytes) -> None:
        self.why_not = "H.264 without a sequence parameter set"
        self._nal_offsets, parameter_sets = _nal_layout(extradata, length_size_at=4, is_boxed=extradata[:1] == b"\x01")
        if parameter_sets is None:
            parameter_sets = _avcc_parameter_sets(extradata)
        for nal in parameter_sets:
            if nal and nal[0] & 31 == 7:
                self._read_sequence_parameters(nal)

    def _read_sequence_parameters(self, nal: bytes) -> None:
        if not self.one_frame_per_packet:
            return
        try:
            progressive = h264_is_progressive(nal)
        except IndexError:
            self.why_not = "H.264 with an unreadable sequence parameter set"
        else:
            self.one_frame_per_packet = progressive
            self.why_not = None if progressive else "interlaced H.264"

    def flags(self, data: PacketData) -> int:
        found = 0
        for offset in self._nal_offsets(data):
            header = data[offset]
            nal_type = header & 31
            # Parameter sets precede the picture, and all slices of a picture agree: the first one settles it.
            if 1 <= nal_type <= 5:
                return found | (ENTRY if nal_type == 5 else 0 if found or header & 0x60 else DROPPABLE)
            if nal_type in self._PARAMETER_SETS:
                found = PARAMETERS
                if nal_type == 7:
                    self._read_sequence_parameters(bytes(data[offset : offset + 512]))
        return found


class Hevc(BitstreamRule):
    """Sub-layer non-reference pictures are droppable in the highest temporal layer, IDR pictures are entries.

    CRA and BLA pictures (open GOP) are no entries: pictures that follow them may refer to what came before.
    """

    def __init__(self, extradata: bytes) -> None:
        # As FFmpeg tells the two layouts apart: Annex B begins with a start code, hvcC with its version
        # and profile, which are not both 0.
        boxed = extradata[:3] > b"\x00\x00\x01"
        self._nal_offsets, _ = _nal_layout(extradata, length_size_at=21, is_boxed=boxed)

    def flags(self, data: PacketData) -> int:
        found = 0
        for offset in self._nal_offsets(data):
            nal_type = data[offset] >> 1 & 63
            second = data[offset + 1]
            if data[offset] & 1 or second & 0xF8:
                continue  # a layer of another view or of alpha: the base layer settles it
            if nal_type < 32:
                found |= max(0, (second & 7) - 1) << TEMPORAL_ID_SHIFT
                if nal_type in (19, 20):
                    return found | ENTRY
                non_reference = nal_type <= 14 and nal_type % 2 == 0
                return found | (DROPPABLE if non_reference and not found & PARAMETERS else 0)
            if nal_type <= 34:
                found = PARAMETERS
        return found


def rule_for(codec: str, extradata: bytes | None, *, intra_only: bool) -> BitstreamRule:
    """The rule for a stream. ``codec``: canonical FFmpeg name; ``intra_only``: the codec has no inter prediction."""
    if codec == "mjpeg":
        return MotionJpeg()
    if intra_only:
        return StillPictures()
    if codec == "h264":
        return H264(extradata or b"")
    if codec == "hevc":
        return Hevc(extradata or b"")
    return NoRule(codec)


def _nal_layout(extradata: bytes, *, length_size_at: int, is_boxed: bool) -> tuple[NalOffsets, list[bytes] | None]:
    """How to find NAL units in packets, and the parameter sets of Annex B extradata (None if in a box)."""
    if not is_boxed:
        return _annex_b_offsets, [extradata[offset : offset + 512] for offset in _annex_b_offsets(extradata)]
    size = (extradata[length_size_at] & 3) + 1 if len(extradata) > length_size_at else 4

    def offsets(data: PacketData) -> Iterator[int]:
        position, end = 0, len(data) - size - 1
        while position < end:
            yield position + size
            position += size + int.from_bytes(data[position : position + size], "big")

    return offsets, None


def _annex_b_offsets(data: PacketData) -> Iterator[int]:
    data = bytes(data)
    position = data.find(b"\x00\x00\x01")
    while 0 <= position < len(data) - 4:
        yield position + 3
        position = data.find(b"\x00\x00\x01", position + 3)


def _avcc_parameter_sets(extradata: bytes) -> list[bytes]:
    sets, position = [], 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[position : position + 2], "big")
        sets.append(extradata[position + 2 : position + 2 + size])
        position += 2 + size
    return sets


_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))


def h264_is_progressive(nal: bytes) -> bool:
    """``frame_mbs_only_flag`` of a sequence parameter set (ITU-T H.264 7.3.2.1.1).

    Raises:
        IndexError: the parameter set ends too early.
    """
    bits = _Bits(nal[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    profile = bits.take(8)
    bits.take(16)
    bits.exp_golomb()  # seq_parameter_set_id
    if profile in _HIGH_PROFILES:
        chroma_format = bits.exp_golomb()
        if chroma_format == 3:
            bits.take(1)
        bits.exp_golomb()  # bit_depth_luma
        bits.exp_golomb()  # bit_depth_chroma
        bits.take(1)
        if bits.take(1):
            for number in range(8 if chroma_format != 3 else 12):
                if bits.take(1):
                    bits.skip_scaling_list(16 if number < 6 else 64)
    bits.exp_golomb()  # log2_max_frame_num
    order_type = bits.exp_golomb()
    if order_type == 0:
        bits.exp_golomb()
    elif order_type == 1:
        bits.take(1)
        bits.exp_golomb()
        bits.exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.exp_golomb()
    bits.exp_golomb()  # max_num_ref_frames
    bits.take(1)
    bits.exp_golomb()  # width
    bits.exp_golomb()  # height
    return bool(bits.take(1))


class _Bits:
    """Reads bits and Exp-Golomb codes from the front; IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._position = 0

    def take(self, count: int) -> int:
        end = self._position + count
        if end > len(self._text):
            raise IndexError("parameter set ends early")
        value = int(self._text[self._position : end], 2)
        self._position = end
        return value

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + (self.take(zeros) if zeros else 0)

    def skip_scaling_list(self, size: int) -> None:
        last = following = 8
        for _ in range(size):
            if following:
                code = self.exp_golomb()
                following = (last + (code + 1 >> 1 if code % 2 else -(code >> 1))) % 256
            last = following or last
