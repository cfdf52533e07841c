"""`longvu`: every mistake is one line and exit code 2; every command does what its help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from jobs.cli import main

ROOT = Path(__file__).resolve().parents[2]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that the command ends with."""
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("note:")]
    assert code == 2
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert not captured.out
    return lines[0]


@pytest.mark.parametrize("command", ["ask", "frames", "demo"])
def test_a_file_that_is_no_video_is_named(
    command: str, bad_video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "ask": ["ask", str(bad_video), "What is this?"],
        "frames": ["frames", str(bad_video), "-o", str(tmp_path / "sheet.png")],
        "demo": ["demo", "--video", str(bad_video), "--folder", str(tmp_path / "demo")],
    }[command]
    assert str(bad_video) in refused(capsys, *words)
    assert not (tmp_path / "sheet.png").exists()
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("threshold", ["0", "-0.5", "1.01", "nan", "high", ""])
def test_a_bad_threshold_is_told_what_is_allowed(threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "frames", "v.mp4", f"--threshold={threshold}")
    assert f"--threshold: {threshold} is not a similarity" in line
    assert "above 0 and at most 1" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["asks", "v.mp4", "q"], "asks"),
        (["ask", "v.mp4"], "QUESTION"),
        (["ask", "v.mp4", "q", "--fps", "0"], "--fps: 0 is not"),
        (["ask", "v.mp4", "q", "--max-new-tokens", "0"], "--max-new-tokens: 0 is not"),
        (["ask", "v.mp4", "q", "--treshold", "0.5"], "--treshold"),
        (["corpus", "c", "--videos", "many"], "--videos: many is not"),
        (["extract", "source=v.mp4", "keep_treshold=0.9"], "keep_threshold"),
        (["extract", "source=v.mp4", "keep_threshold=0"], "keep_threshold=0"),
        (["extract", "source=/nowhere/at/all"], "/nowhere/at/all"),
        (["extract"], "source"),
        (["export", "runs/checkpoint", "s3://bucket/model"], "s3://bucket/model is not a path"),
    ],
)
def test_a_mistyped_command_is_explained(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "tinny"], "tinny"),
        (["--model", "longvu_qwen2_7b"], "longvu_qwen2_7b"),
        (["--store", "no/store"], "no/store"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "gpu"], "gpu"),
    ],
)
def test_what_a_question_needs_is_checked(
    options: list[str], named: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(capsys, "ask", str(video), "What is this?", *options)


def test_the_process_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "ask", str(tmp_path / "gone.mp4"), "What is this?"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_ask_answers_and_says_what_it_looked_at(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(video), "What is this?", "--fps", "4", "--max-new-tokens", "4", "--device", "cpu"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "random weights" in captured.err
    assert "160 frames sampled, " in captured.err
    assert "regime " in captured.err
    assert " visual tokens" in captured.err
    assert main(words) == 0
    assert capsys.readouterr().out == captured.out, "the same question gets the same answer"


def test_ask_takes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(path)
    assert main(["ask", str(path), "What is this?", "--max-new-tokens", "1"]) == 0
    assert "1 frames sampled, 1 kept; regime full" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["ask", "What happens?", "--max-new-tokens", "1"], ["frames"]])
def test_a_cut_file_is_used_and_flagged(
    command: list[str], video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mkv"
    with av.open(str(video)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    name, *rest = command
    output = ["-o", str(tmp_path / "sheet.png")] if name == "frames" else []
    assert main([name, str(cut), *rest, *output]) == 0
    assert "cut.mkv is damaged" in capsys.readouterr().err


def test_a_lower_threshold_keeps_fewer_frames(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    for threshold in ("0.1", "0.999"):
        words = ["ask", str(video), "What is this?", "--fps", "4", "--max-new-tokens", "1", "--threshold", threshold]
        assert main(words) == 0
        kept.append(int(capsys.readouterr().err.split("frames sampled, ")[1].split()[0]))
    # The centre frame of each of the 10 windows stays whatever the threshold.
    assert 10 <= kept[0] < kept[1] <= 160


def test_frames_draws_a_sheet(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["frames", str(video), "--fps", "0.5", "-o", str(sheet)]) == 0
    assert "20 frames sampled" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_frames_names_a_missing_output_folder(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no/such" in refused(capsys, "frames", str(video), "-o", "no/such/sheet.png")


def test_corpus_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "corpus"
    words = ["corpus", str(folder), "--videos", "1", "--seconds", "42"]
    assert main(words) == 0
    assert "already there" not in capsys.readouterr().out
    assert main(words) == 0
    assert "already there" in capsys.readouterr().out
    assert "another configuration" in refused(capsys, *words, "--seed", "1")
    assert "seconds=5" in refused(capsys, "corpus", str(tmp_path / "short"), "--seconds", "5")


def test_convert_there_and_back(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    """The same answer from all three, and the same bytes of every tensor."""
    from safetensors.torch import load_file

    asking = ["ask", str(video), "What is this?", "--max-new-tokens", "8"]
    assert main(asking) == 0
    answers = [capsys.readouterr().out]
    ours, published, again = cache / "longvu" / "models" / "tiny", tmp_path / "published", tmp_path / "again"
    assert main(["convert", str(ours), str(published)]) == 0
    assert main(["convert", str(published), str(again)]) == 0
    before, after = load_file(ours / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    for folder in (published, again):
        capsys.readouterr()
        assert main([*asking, "--model", str(folder)]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[1] == answers[2]
    assert "exists already" in refused(capsys, "convert", str(ours), str(published))
    assert "no checkpoint folder" in refused(capsys, "convert", str(tmp_path), str(tmp_path / "new"))
