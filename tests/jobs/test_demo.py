"""The demo as a newcomer runs it, killed on the way, run again, and run once more when everything is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from jobs.narrator import Narrator, StageFailed
from pipelines.local_cluster import LocalCluster
from pipelines.stage_records import read_stages
from tests.faults.job import ROOT, Job

STAGES = (
    *("corpus", "extract", "train image stage", "export image stage", "train video stage", "export video stage"),
    *("evaluate longvu", "evaluate uniform", "evaluate depth and length", "ask", "report"),
)
DEMO = (sys.executable, "-m", "jobs.demo")


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*DEMO, "--folder", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder whose story was killed while features were extracted, and then told to its end."""
    folder, logs = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("logs")
    words = ["--folder", str(folder), "--size", "smoke"]
    with Job(words, logs, command=DEMO) as job:
        assert job.wait_until(lambda: list(folder.glob("features/*/store.json"))), job.stdout + job.stderr
        assert job.kill("driver")
        deadline_s = time.monotonic() + 60
        while left := job.processes():
            assert time.monotonic() < deadline_s, [process.cmdline() for process in left]
            time.sleep(0.1)
    with Job(words, logs, command=DEMO) as job:
        assert job.wait(500) == 0, job.stdout[-6000:] + job.stderr
        assert not job.processes()
        return folder, job.stdout


@pytest.mark.slow
def test_a_killed_story_goes_on_to_its_end(told: tuple[Path, str]) -> None:
    folder, printed = told
    assert "== corpus: finished before" in printed
    assert tuple(record.name for record in read_stages(folder)) == STAGES
    commands = [line for line in printed.splitlines() if line.startswith("$ ")]
    assert len(commands) == len(STAGES) - 1
    here = [line.split()[2] for line in commands if line.startswith("$ longvu ")]
    assert here == ["export", "export", "report"]
    assert all("ray job submit" in line for line in commands if "longvu" not in line.split()[1])
    assert "mlflow ui --backend-store-uri" in printed


@pytest.mark.slow
def test_two_questions_were_answered_over_http(told: tuple[Path, str]) -> None:
    folder, printed = told
    record = json.loads((folder / "conversation.json").read_text())
    first, second = record["exchanges"]
    assert first["longvu"]["media"][0]["source"] == "decoded"
    assert second["longvu"]["media"][0]["source"] == "cache"
    assert first["longvu"]["media"][0]["num_sampled"] == 60
    assert first["usage"]["prompt_tokens"] > first["longvu"]["visual_tokens"] > 0
    for exchange in (first, second):
        assert f"{exchange['question']}  ->  {exchange['answer']}" in printed


@pytest.mark.slow
def test_uniform_sampling_has_at_least_the_tokens_of_longvu(told: tuple[Path, str]) -> None:
    folder, _ = told
    tokens = {
        path.parent.name.partition("-")[0]: json.loads(path.read_text())["facts"]["visual_tokens"]
        for path in folder.glob("evaluate/*/results.json")
    }
    assert tokens["uniform"] >= tokens["longvu"] > 0


@pytest.mark.slow
def test_the_served_model_leads_back_to_every_source(told: tuple[Path, str]) -> None:
    folder, _ = told
    model = json.loads(next(folder.glob("evaluate/longvu-*/results.json")).read_text())["model"]["folder"]
    command = [sys.executable, "-m", "jobs.cli", "lineage", model, "--workdir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "28 sources with a digest" in done.stdout
    for use in ("evaluate", "serve"):
        assert use in done.stdout.partition("used by")[2]


@pytest.mark.slow
def test_the_report_says_that_it_was_a_smoke_run(told: tuple[Path, str]) -> None:
    page = (told[0] / "report.html").read_text()
    assert "smoke: a few videos and steps" in page
    assert page.count("<svg") == 5
    assert "does not have it" not in page


@pytest.mark.slow
def test_a_finished_story_is_not_told_again(told: tuple[Path, str]) -> None:
    folder, _ = told
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = demo(folder, "--size", "smoke")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished before") == len(STAGES)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_another_story_needs_another_folder(told: tuple[Path, str]) -> None:
    refused = demo(told[0], "--size", "smoke", "--seed", "1")
    assert refused.returncode == 2
    assert "holds the demo with --seed 0 --size smoke" in refused.stderr and "--folder" in refused.stderr


def test_a_failed_stage_says_its_last_lines_and_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    narrator = Narrator(tmp_path, LocalCluster(tmp_path / "logs" / "ray.log"))
    words = [str(tmp_path / "corpus"), "--config", "jobs/configs/corpus_demo.yaml", "seconds=1"]
    with pytest.raises(StageFailed) as failed:
        narrator.here("corpus", "about", "corpus", words, paths=[])
    assert "exit code 2" in str(failed.value)
    assert "| error: seconds=1.0 of the corpus: use at least" in str(failed.value)
    assert f"  longvu corpus {tmp_path}/corpus --config jobs/configs/corpus_demo.yaml seconds=1" in str(failed.value)
    assert not read_stages(tmp_path)


@pytest.mark.slow
def test_a_video_of_your_own(tmp_path: Path, video: Path) -> None:
    done = demo(tmp_path, "--video", str(video))
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("$ longvu ")]
    assert commands == ["extract", "frames", "ask"]
    with Image.open(tmp_path / "scenes.frames.png") as picture:
        assert picture.width > 1000
