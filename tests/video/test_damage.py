"""Damaged files: never a crash, and every frame that leaves is the right one."""

from __future__ import annotations

import io
from functools import cache

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longvu_model.video import FrameSampling, VideoError, decode_frames, probe
from longvu_model.video.completeness import is_cut_short
from longvu_model.video.oracle import decode_everything
from tests.video.clips import CLIPS, clip

_SLOW = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
_RULES = st.sampled_from(["fps:1000", "fps:4", "fps:1"])


@_SLOW
@given(name=st.sampled_from(sorted(CLIPS)), share=st.floats(0, 1), rule=_RULES)
def test_a_file_cut_anywhere_gives_the_oracles_good_prefix_or_a_named_error(name, share, rule):
    whole = clip(name)
    cut = whole[: int(share * (len(whole) - 1))]
    try:
        oracle = decode_everything(cut, FrameSampling.parse(rule))
    except VideoError:
        with pytest.raises(VideoError):
            decode_frames(cut, rule)
        return
    ours = decode_frames(cut, rule)
    assert ours.indices.tolist() == oracle.indices.tolist()
    assert np.array_equal(ours.frames, oracle.frames)
    assert np.allclose(ours.pts_s, oracle.pts_s)


@cache
def _packets(name):
    """(position, size, presentation time in seconds) of each packet in decoding order."""
    with av.open(io.BytesIO(clip(name))) as container:
        stream = container.streams.video[0]
        return [(p.pos, p.size, float(p.pts * stream.time_base)) for p in container.demux(stream) if p.size]


@cache
def _clean(name):
    video = decode_everything(clip(name), FrameSampling(fps=1000))
    return dict(zip(np.round(video.pts_s, 4), video.frames, strict=True))


@_SLOW
@given(
    name=st.sampled_from([name for name, kind in CLIPS.items() if kind.container == "mp4"]),
    data=st.data(),
    rule=_RULES,
)
def test_frames_before_a_damaged_packet_are_untouched(name, data, rule):
    packets = _packets(name)
    number = data.draw(st.integers(0, len(packets) - 1))
    position, size, _ = packets[number]
    damaged = bytearray(clip(name))
    for offset in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6)):
        damaged[position + offset] = data.draw(st.integers(0, 255))
    try:
        video = decode_frames(bytes(damaged), rule)
    except VideoError:
        return
    planned = decode_frames(clip(name), rule).indices.tolist()
    assert video.indices.tolist() == planned[: len(video.indices)]
    before = {round(time, 4) for _, _, time in packets[:number]}
    for time, frame in zip(np.round(video.pts_s, 4), video.frames, strict=True):
        if time in before:
            assert np.array_equal(frame, _clean(name)[time])


@_SLOW
@given(name=st.sampled_from(sorted(CLIPS)), data=st.data(), rule=_RULES)
def test_damage_anywhere_gives_frames_or_a_named_error(name, data, rule):
    damaged = bytearray(clip(name))
    for offset in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[offset] = data.draw(st.integers(0, 255))
    try:
        video = decode_frames(bytes(damaged), rule)
    except VideoError as error:
        assert "\n" not in error.message
    else:
        assert len(video.frames) == len(video.indices) == len(video.pts_s) > 0


# MPEG-TS, program streams and raw H.264 do not say how long they are meant to be.
@pytest.mark.parametrize("name", ["h264_mkv", "vp9", "av1", "ffv1", "gif", "h264_avi"])
def test_a_cut_file_is_flagged(name):
    whole = clip(name)
    assert not decode_frames(whole).truncated
    assert not probe(whole).truncated
    cut = decode_frames(whole[: len(whole) * 7 // 10], "fps:1000")
    assert cut.truncated
    assert cut.summary.damage == "the file was cut short"
    assert 0 < len(cut.frames) < CLIPS[name].num_frames
    assert np.array_equal(cut.frames[:-1], decode_frames(whole, "fps:1000").frames[: len(cut.frames) - 1])


def test_a_cut_mp4_with_its_index_in_front_is_flagged(tmp_path):
    path = tmp_path / "front.mp4"
    with (
        av.open(io.BytesIO(clip("h264_gop_250"))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    whole = path.read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    cut = decode_frames(whole[: len(whole) * 6 // 10], "fps:4")
    assert cut.truncated
    assert np.array_equal(cut.frames, decode_frames(whole, "fps:4").frames[: len(cut.frames)])
    assert 3 < len(cut.frames) < 20


@pytest.mark.parametrize("name", CLIPS)
def test_whole_files_are_whole(name):
    assert not is_cut_short(io.BytesIO(clip(name)))
