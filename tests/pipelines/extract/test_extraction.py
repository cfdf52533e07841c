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
from pathlib import Path

import psutil
import pytest

from jobs.extract import main
from pipelines import storage
from pipelines.store import FeatureStore, committed_units

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


@pytest.fixture(scope="module")
def undisturbed(
    corpus: Path, workdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    root = tmp_path_factory.mktemp("undisturbed")
    finished = run(command(corpus, root, workdir))
    assert finished.returncode == 3, finished.stderr  # one of six sources is a text: more than a tenth
    return root, finished


def test_summary(undisturbed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    root, finished = undisturbed
    store = store_of(root)
    out = finished.stdout
    assert re.search(r"extracted 6 sources in \d", out)
    assert "ok 4  truncated 1  failed 1 (NotAVideo 1)" in out
    sampled, kept = sum(store.videos()["num_sampled"].to_pylist()), sum(store.videos()["num_kept"].to_pylist())
    assert f"sampled {sampled}  kept {kept} ({kept / sampled:.1%})" in out
    assert 0 < kept < sampled
    for stage in ("decode", "encode", "commit"):
        (line,) = (line.split() for line in out.splitlines() if line.split()[:1] == [stage])
        frames, busy_s, actors, ceiling = int(line[1]), float(line[2]), int(line[3]), float(line[4])
        assert frames == sampled and actors >= 1
        assert ceiling == pytest.approx(frames * actors / busy_s, rel=0.2, abs=0.2)
    assert "max_failed_fraction=0.1" in out and "text.mp4" in out
    assert re.search(rf"^store +{re.escape(storage.shown(store.uri))}$", out, re.M)
    assert re.search(r"^mlflow +sqlite:///.+ run [0-9a-f]{32}$", out, re.M)
    assert re.search(r"^next +longvu ", out, re.M)
    assert store.verify().problems == ()
    assert "Traceback" not in finished.stderr


def test_second_run_is_quick_and_starts_nothing(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str]], corpus: Path, workdir: Path
) -> None:
    root, _ = undisturbed
    before = committed_units(store_of(root).uri)
    code = """if True:
        import sys
        from jobs.extract import main
        code = main(sys.argv[1:])
        heavy = {"ray", "torch", "mlflow", "transformers"} & sys.modules.keys()
        sys.exit(f"imported {heavy}" if heavy else code)
    """
    started_s = time.monotonic()
    words = [sys.executable, "-c", code, *command(corpus, root, workdir)[3:]]
    finished = run(words)
    assert finished.returncode == 3, finished.stderr
    assert "nothing to do: all 6 sources were already extracted" in finished.stdout
    assert time.monotonic() - started_s < 20
    assert committed_units(store_of(root).uri) == before


@pytest.fixture
def processes() -> Iterator[list[psutil.Process]]:
    """Processes of a killed driver; Ray's agents outlive it by most of a minute, so they are ended here."""
    started: list[psutil.Process] = []
    yield started
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_kill_and_resume_lose_and_repeat_nothing(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str]],
    corpus: Path,
    workdir: Path,
    tmp_path: Path,
    processes: list[psutil.Process],
) -> None:
    expected = store_of(undisturbed[0])
    uri = storage.resolve(tmp_path / "features" / Path(expected.uri).name)
    driver = subprocess.Popen(
        command(corpus, tmp_path, workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not committed_units(uri):
        assert driver.poll() is None, "ended before its first commit"
        time.sleep(0.01)
    processes += psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in processes if "MapWorker" in " ".join(process.cmdline())]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, writing = psutil.wait_procs(workers, timeout=60)
    assert workers and not writing, "actors outlived their killed driver"
    survived = committed_units(uri)
    assert 0 < len(survived) < len(expected.commits), "the kill did not fall into the middle"
    first_commits = {unit: FeatureStore.open(uri).commits[unit] for unit in survived}

    finished = run(command(corpus, tmp_path, workdir))
    assert finished.returncode == 3, finished.stderr
    assert f"{len(expected.commits) - len(survived)} units to do" in finished.stderr
    store = store_of(tmp_path)
    assert store.commits.keys() == expected.commits.keys()
    assert {unit: store.commits[unit] for unit in survived} == first_commits
    assert store.verify().problems == ()
    assert store.videos().equals(expected.videos())
    videos = store.videos().to_pylist()
    for video_id in {video["video_id"] for video in videos if video["status"] != "failed"}:
        assert store.frames(video_id).equals(expected.frames(video_id))


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
        (["model=longvu_qwen2_7b"], "load a checkpoint"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
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
    undisturbed: tuple[Path, subprocess.CompletedProcess[str]],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from longvu_model.presets import build_preset

    other = build_preset("tiny", tmp_path / "other", seed=1)
    words = command(corpus, undisturbed[0], tmp_path, f"model={other}")[3:]
    assert main(words) == 2
    assert "was made with dinov2 tower" in capsys.readouterr().err
