"""The decoding benchmark runs, checks its frames, and memory stays flat."""

from __future__ import annotations

from tests.benchmarks import decode
from tests.video.clips import clip


def test_the_table_says_that_frames_are_exact(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rotated.mp4"
    path.write_bytes(clip("h264_rotated_90"))
    monkeypatch.setattr("sys.argv", ["decode", "--files", str(path), "--repeats", "1", "--no-memory"])
    assert decode.main() == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:2] == ["rotated.mp4", "3"]
    assert row[-2] == "yes"


def test_a_wrong_frame_is_noticed(tmp_path, monkeypatch, capsys):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("h264_b_frames"))
    monkeypatch.setattr("sys.argv", ["decode", "--files", str(path), "--repeats", "1", "--no-memory"])
    monkeypatch.setattr(decode, "_decode_all", lambda *_: decode.decode_frames(path, "fps:1").frames // 2)
    assert decode.main() == 1
    assert " NO " in capsys.readouterr().out


def test_memory_does_not_grow_with_duration(tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip("h264_b_frames"))
    short, long = (
        decode.peak_memory_kb(decode.repeated(source, tmp_path / f"{times}.mp4", times), "fps:24") for times in (5, 120)
    )
    all_frames_kb = 120 * 72 * 96 * 64 * 3 // 1024
    assert all_frames_kb > short
    assert long < 1.1 * short
