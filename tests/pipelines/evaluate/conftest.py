"""A small benchmark, and evaluations of it against a scripted endpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import load_config
from pipelines.evaluate import endpoint
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.evaluation import Evaluation, evaluate
from pipelines.evaluate.preparation import prepare
from tests.pipelines.evaluate.small_benchmark import write_benchmark


@pytest.fixture(scope="session")
def small_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of three seconds with three questions each. Shared: whoever changes files takes ``benchmark``."""
    return write_benchmark(tmp_path_factory.mktemp("benchmark") / "data")


@pytest.fixture
def benchmark(small_benchmark: Path, tmp_path: Path) -> Path:
    """A copy of this test's own."""
    return Path(shutil.copytree(small_benchmark, tmp_path / "data"))


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience with endpoints in hundredths of seconds."""
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_S", 0.01)


def config_of(folder: Path, data: Path, *words: str, **settings: Any) -> EvaluateConfig:
    """An evaluation of the small benchmark under ``folder``; all tests share MLflow's database, which takes seconds."""
    given = {"task": "nextqa", "data": data, "output": folder / "runs", "workdir": folder.parent / "work", **settings}
    return load_config(EvaluateConfig, None, [*(f"{name}={value}" for name, value in given.items()), *words])


def run_against(url: str, folder: Path, data: Path, *words: str, **settings: Any) -> Evaluation:
    """Evaluate a scripted endpoint in this process."""
    config = config_of(folder, data, "requests.attempts=2", *words, endpoint=url, model="scripted-model", **settings)
    return evaluate(prepare(config, None), in_process=True)
