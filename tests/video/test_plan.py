"""What packet headers tell, and which packets a plan sends."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from longvu_model.video.bitstream import (
    DROPPABLE,
    ENTRY,
    H264,
    PARAMETERS,
    TEMPORAL_ID_SHIFT,
    Hevc,
    h264_is_progressive,
)
from longvu_model.video.container import open_video
from longvu_model.video.packet_index import PacketIndex, read_index
from longvu_model.video.plan import make_plan
from tests.video.clips import clip


def _boxed(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def _annex_b(*units: bytes) -> bytes:
    return b"".join(b"\x00\x00\x00\x01" + unit for unit in units)


def _h264(kind: int, importance: int) -> bytes:
    return bytes([importance << 5 | kind]) + b"\x88" * 20


def _hevc(kind: int, layer: int = 0, view: int = 0) -> bytes:
    return bytes([kind << 1 | view >> 5, (view & 31) << 3 | layer + 1]) + b"\x88" * 20


_SEI, _PPS = _h264(6, 0), _h264(8, 3)


@pytest.fixture(scope="module")
def avcc():
    with av.open(io.BytesIO(clip("h264_b_frames"))) as container:
        return container.streams.video[0].codec_context.extradata


@pytest.mark.parametrize(
    ("units", "flags"),
    [
        ((_h264(5, 3),), ENTRY),
        ((_SEI, _h264(5, 3)), ENTRY),
        ((_h264(1, 2),), 0),
        ((_h264(1, 0),), DROPPABLE),
        ((_SEI, _h264(1, 0), _h264(1, 0)), DROPPABLE),
        ((_PPS, _h264(1, 0)), PARAMETERS),  # later pictures may need the parameter set
        ((_PPS, _h264(5, 3)), PARAMETERS | ENTRY),
        ((_SEI,), 0),
        ((), 0),
    ],
)
def test_h264_packets(avcc, units, flags):
    assert H264(avcc).flags(memoryview(_boxed(*units))) == flags
    with av.open(io.BytesIO(clip("h264_annex_b_ts"))) as container:
        rule = H264(container.streams.video[0].codec_context.extradata)
    assert rule.why_not is None
    assert rule.flags(memoryview(_annex_b(*units))) == flags


def test_h264_needs_to_know_that_it_is_progressive(avcc):
    assert H264(avcc).why_not is None
    assert H264(b"").why_not == "H.264 without a sequence parameter set"
    with av.open(io.BytesIO(clip("h264_interlaced"))) as container:
        assert H264(container.streams.video[0].codec_context.extradata).why_not == "interlaced H.264"
    with pytest.raises(IndexError):
        h264_is_progressive(b"\x67\x64")


def test_a_truncated_packet_is_read_without_a_fuss(avcc):
    packet = _boxed(_SEI, _h264(1, 0))
    for size in range(len(packet)):
        assert H264(avcc).flags(packet[:size]) in (0, DROPPABLE)
        assert Hevc(b"\x01" + bytes(22)).flags(packet[:size]) in range(256)


@pytest.mark.parametrize(
    ("units", "flags"),
    [
        ((_hevc(19),), ENTRY),
        ((_hevc(20),), ENTRY),
        ((_hevc(21),), 0),  # CRA, the key frame of an open GOP
        ((_hevc(1),), 0),
        ((_hevc(0),), DROPPABLE),
        ((_hevc(8, layer=2),), DROPPABLE | 2 << TEMPORAL_ID_SHIFT),
        ((_hevc(9, layer=2),), 2 << TEMPORAL_ID_SHIFT),
        ((_hevc(34), _hevc(0)), PARAMETERS),
        ((_hevc(33), _hevc(34), _hevc(0, layer=1)), PARAMETERS | 1 << TEMPORAL_ID_SHIFT),
        ((_hevc(0, view=1), _hevc(1)), 0),
    ],
)
def test_hevc_packets(units, flags):
    boxed = b"\x01\x01" + bytes(19) + b"\xff\x00"
    assert Hevc(boxed).flags(memoryview(_boxed(*units))) == flags
    assert Hevc(_annex_b(_hevc(33))).flags(memoryview(_annex_b(*units))) == flags


def _index(text: str, times: list[int]) -> PacketIndex:
    """I entry, P needed, b droppable, h hidden by an edit list; S and s: I and P with parameter sets."""
    pts = np.array(times)
    shown = np.array([letter != "h" for letter in text])
    visible = np.flatnonzero(shown)
    return PacketIndex(
        pts_P=pts,
        shown_P=shown,
        entry_P=np.array([letter in "IS" for letter in text]),
        parameters_P=np.array([letter in "Ss" for letter in text]),
        droppable_P=np.array([letter == "b" for letter in text]),
        order_F=visible[np.argsort(pts[visible])],
        timed=True,
        why_not=None,
        last_duration=1,
        damage=None,
    )


@pytest.mark.parametrize(
    ("text", "times", "wanted", "sent"),
    [
        # Two closed pieces, shown as 0 1 2 3 | 4 5 6 7.
        ("IPbbIPbb", [0, 3, 1, 2, 4, 7, 5, 6], [0], "I......."),
        ("IPbbIPbb", [0, 3, 1, 2, 4, 7, 5, 6], [1], "IPb....."),
        ("IPbbIPbb", [0, 3, 1, 2, 4, 7, 5, 6], [2], "IP.b...."),
        ("IPbbIPbb", [0, 3, 1, 2, 4, 7, 5, 6], [5], "....IPb."),
        ("IPbbIPbb", [0, 3, 1, 2, 4, 7, 5, 6], [0, 7], "I...IP.."),
        # The second entry has a leading picture (shown before it), still after the first piece.
        ("IPIbPb", [0, 1, 3, 2, 5, 4], [2], "..Ib.."),
        # A picture of the first piece is shown after the second entry: no clean cut.
        ("IPIP", [0, 3, 2, 4], [3], "IPIP"),
        # Parameter sets with every entry, with the first one only, and with a picture between entries.
        ("SPSPSP", [0, 1, 2, 3, 4, 5], [4], "....S."),
        ("SPIPIP", [0, 1, 2, 3, 4, 5], [4], "SPIPI."),
        ("SsSPSP", [0, 1, 2, 3, 4, 5], [4], "SsSPS."),
        # Hidden packets are no frames, but serve others.
        ("IhPb", [-2, -1, 1, 0], [0], "I..."),
        ("IhPb", [-2, -1, 1, 0], [1], "IhPb"),
    ],
)
def test_plans(text, times, wanted, sent):
    plan = make_plan(_index(text, times), np.array(wanted))
    assert "".join(letter if send else "." for letter, send in zip(text, plan.send_P, strict=True)) == sent


def test_only_the_highest_temporal_layer_may_lose_pictures():
    with open_video(clip("hevc_temporal_layers")) as video:
        index, _ = read_index(video)
    assert index.why_not is None
    assert 0 < index.droppable_P.sum() < len(index.droppable_P)
    assert not (index.droppable_P & index.entry_P).any()


def test_packets_are_kept_only_while_they_are_few():
    for keep_bytes, kept in ((0, False), (10_000, False), (1 << 20, True)):
        with open_video(clip("h264_b_frames")) as video:
            index, packets = read_index(video, keep_bytes=keep_bytes)
        assert (packets is not None) is kept
        assert packets is None or len(packets) == len(index.pts_P) == 72
