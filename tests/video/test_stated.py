"""What headers state against what reading every packet counts."""

from __future__ import annotations

import pytest

from longvu_model.video import FrameSampling, NotAVideo, decode_frames, iter_frame_blocks
from longvu_model.video.stated import read_stated
from tests.video.clips import CLIPS, clip, remuxed_with_hidden_frames

_EVERY = FrameSampling(fps=1000)
# Rates that vary and starts that are late make duration times rate a guess, and streams without times tell nothing.
_GUESSED = {"h264_variable_rate", "h264_late_start", "mpeg2_program_stream", "h264_raw"}


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_frames_are_counted_without_reading_them(name):
    stated, stream = read_stated(clip(name)), iter_frame_blocks(clip(name), _EVERY)
    assert stated.listed == (CLIPS[name].container == "mp4")
    if name not in _GUESSED:
        assert stated.num_frames == len(stream.indices)
    summary = decode_frames(clip(name), "uniform:1").summary
    assert (stated.codec, {stated.width, stated.height}) == (summary.codec, {summary.width, summary.height})
    if stated.listed:
        assert stated.keyframes[0] == 0 and len(stated.keyframes) >= stated.num_frames // CLIPS[name].gop


@pytest.mark.parametrize("name", ["h264_b_frames", "h264_gop_7", "hevc_closed_gop"])
def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path, name):
    path = remuxed_with_hidden_frames(clip(name), tmp_path / "trimmed.mp4", hidden=17)
    assert read_stated(path).num_frames == len(iter_frame_blocks(path, _EVERY).indices) == 55


def test_what_is_no_video_is_named():
    with pytest.raises(NotAVideo):
        read_stated(b"this is no video")
