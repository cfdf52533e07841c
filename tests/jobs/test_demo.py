"""The demo as a newcomer runs it, and runs it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def demo(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "jobs.demo", "--folder", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder, "--videos", "1")


def test_the_first_run_goes_from_videos_to_an_answer(first_run: tuple[Path, str]) -> None:
    folder, printed = first_run
    assert "sources  ok 1  truncated 0  failed 0" in printed
    assert "120 frames sampled" in printed
    assert "True answer: " in printed
    assert (folder / "mlflow.db").is_file()
    (sheet,) = folder.glob("*.frames.png")
    with Image.open(sheet) as picture:
        assert picture.width > 1000
    commands = [line for line in printed.splitlines() if line.startswith("$ longvu ")]
    assert [line.split()[2] for line in commands] == ["corpus", "extract", "frames", "ask"]


def test_the_second_run_skips_what_is_finished(first_run: tuple[Path, str]) -> None:
    folder, _ = first_run
    before = {path: path.stat().st_mtime_ns for path in (folder / "features").rglob("*") if path.is_file()}
    printed = demo(folder, "--videos", "1")
    assert "(already there)" in printed
    assert "nothing to do: all 1 sources were already extracted" in printed
    assert before
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "features").rglob("*") if path.is_file()}


def test_a_video_of_your_own_uses_the_same_store(first_run: tuple[Path, str]) -> None:
    """Here a video that is extracted already: found by its content, it costs no work."""
    folder, _ = first_run
    (video,) = (folder / "corpus" / "videos").glob("*.mp4")
    printed = demo(folder, "--video", str(video))
    assert "nothing to do: all 1 sources were already extracted" in printed
    assert "What happens in this video?" in printed
    assert "True answer" not in printed
    assert "$ longvu corpus" not in printed
