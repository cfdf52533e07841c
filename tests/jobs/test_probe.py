"""``longvu probe``: what extraction would say of one source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.probe import main
from longvu_model.video import decode_frames
from pipelines import storage
from tests.pipelines.conftest import s3  # noqa: F401

CAUSES = {
    "missing.mp4": "Missing",
    "empty.mp4": "NotAVideo",
    "text.mp4": "NotAVideo",
    "audio.mp4": "NotAVideo",
    "folder.mp4": "NotAVideo",
}


def test_a_good_video(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(video)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{video}: ok"
    assert out[1:4] == [
        "video    h264 96x64",
        f"length   40.00 s at 4.000 frames/s, {video.stat().st_size} bytes",
        "decoder  pyav (sparse), attempt 1",
    ]
    assert out[4] == "sampled  40 frames from 0.00 s to 39.00 s"
    assert out[5] == f"sha256   {storage.sha256(storage.resolve(video))}"


def test_a_part_in_another_decoder_as_json(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord")
    words = [str(video), "--sampling", "fps:2", "--start-s", "3", "--end-s", "9.5", "--backend", "decord", "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    expected = decode_frames(video, "fps:2,start:3,end:9.5")
    assert (facts["status"], facts["decoder"], facts["num_sampled"]) == ("ok", "decord", len(expected.indices))
    assert [facts["first_pts_s"], facts["last_pts_s"]] == expected.pts_s[[0, -1]].tolist()


def test_bad_sources(bad_video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bad_video)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{bad_video}: failed ({CAUSES[bad_video.name]})"
    assert out[1].startswith("message  ") and bad_video.name in out[1]


def test_a_damaged_file_is_taken_as_far_as_it_is_good(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = video.read_bytes()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data[: len(data) // 2] + bytes(len(data) // 4) + data[len(data) * 3 // 4 :])
    assert main([str(damaged), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["status"], facts["error"]) == ("truncated", "Truncated")
    assert "the frames before it are used" in facts["message"] and 0 < facts["num_sampled"] < 40


def test_limits_are_those_of_the_job(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(video), "--max-pixels", "1000"]) == 1
    assert "failed (TooLarge)" in capsys.readouterr().out
    assert main([str(video), "--deadline-s", "1e-9"]) == 1
    assert "failed (Timeout)" in capsys.readouterr().out


def test_an_object_on_s3(video: Path, s3: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    storage.write_bytes(f"{s3}/probe/video.mp4", video.read_bytes())
    assert main([f"{s3}/probe/video.mp4"]) == 0
    assert capsys.readouterr().out.startswith(f"{s3}/probe/video.mp4: ok\nvideo    h264 96x64\n")
    assert main([f"{s3}/probe/nothing.mp4"]) == 1
    assert "failed (Missing)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampling", "fps:0"], "fps=0.0 must be a number above 0"),
        (["--start-s", "5", "--end-s", "4"], "end_s=4.0 must be after start_s=5.0"),
        (["--backend", "ffmpeg"], "invalid choice: 'ffmpeg'"),
    ],
)
def test_mistakes(words: list[str], message: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([str(video), *words])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2 and message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_starts_light(video: Path) -> None:
    code = f"""if True:
        import sys
        from jobs.probe import main
        code = main(["{video}"])
        sys.exit(f"imported {{heavy}}" if (heavy := {{"ray", "torch", "mlflow"}} & sys.modules.keys()) else code)
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
