"""The whole job on real Ray, through its entry point: a run, a kill, a resume, a second run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from jobs.extract import DEFAULT_CONFIG, main
from pipelines import storage
from pipelines.config import load_config
from pipelines.extract import ExtractConfig, store_uri
from pipelines.extract.towers import TowerBundle
from pipelines.store import Commit, FeatureStore, committed_units
from tests.pipelines.extract.conftest import extract_without_ray

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("extract*.yaml"))
# Many small units, so that a kill falls between two of them.
SETTINGS = ("sampling=fps:4", "unit_frames=16", "encode.batch_frames=16", "keep_all_below=0", "name=test")


def command(corpus: Path, root: Path, workdir: Path, *overrides: str) -> list[str]:
    words = (f"source={corpus}", f"store={root}", f"workdir={workdir}", *SETTINGS, *overrides)
    return [sys.executable, "-m", "jobs.extract", *words]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)


def store_of(root: Path) -> FeatureStore:
    (folder,) = (root / "features").iterdir()
    return FeatureStore.open(folder)


@dataclass(frozen=True)
class Resumed:
    """A run whose driver was killed in the middle, and what the same command then did."""

    root: Path
    survived: dict[str, Commit]
    finished: subprocess.CompletedProcess[str]


def _is_map_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # ended, or a zombie, since the list was made
        return "MapWorker" in " ".join(process.cmdline())
    return False


@pytest.fixture(scope="module")
def resumed(corpus: Path, workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resumed]:
    root = tmp_path_factory.mktemp("resumed")
    words = command(corpus, root, workdir)
    config = load_config(ExtractConfig, DEFAULT_CONFIG, words[3:])
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not committed_units(store_uri(config)):
        assert driver.poll() is None, "ended before its first commit"
        time.sleep(0.01)
    processes = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in processes if _is_map_worker(process)]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, writing = psutil.wait_procs(workers, timeout=60)
    assert workers and not writing, "actors outlived their killed driver"
    survived = dict(store_of(root).commits)
    yield Resumed(root, survived, run(words))
    for process in processes:  # Ray's agents outlive a killed driver by most of a minute
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_kill_and_resume_lose_and_repeat_nothing(
    resumed: Resumed, bundle: TowerBundle, corpus: Path, tmp_path: Path
) -> None:
    words = command(corpus, tmp_path, tmp_path)
    expected = extract_without_ray(load_config(ExtractConfig, DEFAULT_CONFIG, words[3:]), bundle)
    assert 0 < len(resumed.survived) < len(expected.commits), "the kill did not fall into the middle"
    assert f"{len(expected.commits) - len(resumed.survived)} units to do" in resumed.finished.stderr
    store = store_of(resumed.root)
    assert store.commits.keys() == expected.commits.keys()
    assert {unit: store.commits[unit] for unit in resumed.survived} == resumed.survived
    assert store.verify().problems == ()
    assert store.videos().equals(expected.videos())
    videos = store.videos().to_pylist()
    for video_id in {video["video_id"] for video in videos if video["status"] != "failed"}:
        assert store.frames(video_id).equals(expected.frames(video_id))


def test_summary(resumed: Resumed) -> None:
    assert resumed.finished.returncode == 3, resumed.finished.stderr  # a text among six sources: more than a tenth
    store = store_of(resumed.root)
    out = resumed.finished.stdout
    assert re.search(r"extracted 6 sources in \d", out)
    assert "ok 4  truncated 1  failed 1" in out
    assert re.search(r"^NotAVideo +1  '.*text\.mp4'", out, re.M)
    sampled, kept = sum(store.videos()["num_sampled"].to_pylist()), sum(store.videos()["num_kept"].to_pylist())
    assert f"sampled {sampled}  kept {kept} ({kept / sampled:.1%})" in out
    assert 0 < kept < sampled
    for stage in ("decode", "encode", "commit"):
        (line,) = (line.split() for line in out.splitlines() if line.split()[:1] == [stage])
        frames, busy_s, actors, ceiling = int(line[1]), float(line[2]), int(line[3]), float(line[4])
        assert frames == sampled - sum(commit.counts["sampled"] for commit in resumed.survived.values())
        assert actors >= 1
        assert ceiling == pytest.approx(frames * actors / busy_s, rel=0.2, abs=0.2)
    assert "max_failed_fraction=0.1" in out and f"longvu store quarantine {storage.shown(store.uri)}" in out
    assert re.search(rf"^store +{re.escape(storage.shown(store.uri))}$", out, re.M)
    assert re.search(r"^mlflow +sqlite:///.+ run [0-9a-f]{32}$", out, re.M)
    assert re.search(r"^next +longvu ", out, re.M)
    assert "Traceback" not in resumed.finished.stderr


def test_second_run_is_quick_and_starts_nothing(resumed: Resumed, corpus: Path, workdir: Path) -> None:
    before = store_of(resumed.root).commits
    code = """if True:
        import sys
        from jobs.extract import main
        code = main(sys.argv[1:])
        heavy = {"ray", "torch", "mlflow", "transformers"} & sys.modules.keys()
        sys.exit(f"imported {heavy}" if heavy else code)
    """
    started_s = time.monotonic()
    words = [sys.executable, "-c", code, *command(corpus, resumed.root, workdir)[3:]]
    finished = run(words)
    assert finished.returncode == 3, finished.stderr
    assert "nothing to do: all 6 sources were already extracted" in finished.stdout
    assert time.monotonic() - started_s < 20
    assert store_of(resumed.root).commits == before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_settings_load(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(path), f"source={tmp_path}/nowhere"]) == 2
    assert capsys.readouterr().err == f"error: source={tmp_path}/nowhere: no such file or folder\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["keep_treshold=0.5"], "keep_treshold: unknown key; did you mean keep_threshold?"),
        (["keep_threshold=-1"], "keep_threshold=-1: must be greater than 0"),
        (["unit_frames=100"], "unit_frames=100"),
        (["sampling=fps:0"], "fps=0.0 must be a number above 0"),
        (["store=gs://bucket"], "scheme 'gs' is not supported"),
        (["model=nowhere"], "model=nowhere: neither a checkpoint folder"),
        (["model=longvu_qwen2_7b"], "download a released one"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["workdir=/dev/null/x"], "workdir=/dev/null/x: cannot be made (Not a directory)"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], expected: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"source={corpus}", f"store={tmp_path}", f"workdir={tmp_path}", *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and captured.err.count("\n") == 1
    assert not captured.out and not list(tmp_path.iterdir())


def test_another_model_is_refused_even_when_nothing_is_left(
    resumed: Resumed, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from longvu_model.presets import build_preset

    other = build_preset("tiny", tmp_path / "other", seed=1)
    words = command(corpus, resumed.root, tmp_path, f"model={other}")[3:]
    assert main(words) == 2
    assert "was made with dinov2 tower" in capsys.readouterr().err
