"""The figures' scripts run and agree with their oracles, at a size that takes seconds."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.benchmarks import compression
from tests.benchmarks.gpu import model as gpu_model


def test_token_path_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["compression", "--frames", "20", "150", "--rounds", "1"])
    compression.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["20", "150"]
    assert not any("NOT EQUAL" in row for row in rows)


def test_gpu_checks_pass_on_the_cpu() -> None:
    assert gpu_model.check_reference_cases(torch.device("cpu"))
