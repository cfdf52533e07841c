"""Samples of the benchmarks, each written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.evaluate.tasks.samples import Sample, write_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sample]:
    """The sample of a task by name. Shared: tests that change files copy them first."""
    folder = tmp_path_factory.mktemp("samples")
    written: dict[str, Sample] = {}

    def get(name: str) -> Sample:
        if name not in written:
            written[name] = write_sample(name, folder / name)
        return written[name]

    return get


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files are made that rows show."""
    return tmp_path_factory.mktemp("made")
