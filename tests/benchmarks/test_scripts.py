"""The figures' scripts run and agree with their oracles, at a size that takes seconds."""

from __future__ import annotations

import sys

import pytest
import torch

from longvu_model.presets import PRESETS
from tests.benchmarks import compression
from tests.benchmarks.gpu import encode as gpu_encode
from tests.benchmarks.gpu import model as gpu_model


def test_token_path_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["compression", "--frames", "20", "150", "--rounds", "1"])
    compression.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["20", "150"]
    assert not any("NOT EQUAL" in row for row in rows)


def test_gpu_checks_pass_on_the_cpu() -> None:
    assert gpu_model.check_reference_cases(torch.device("cpu"))


def test_gpu_encoding_runs_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_encode.main(["--smoke", "--no-compile"]) == 0
    assert "of the bound" in capsys.readouterr().out


def test_operations_of_the_published_tower() -> None:
    parts = gpu_encode.operations(PRESETS["longvu_qwen2_7b"]())
    assert sum(parts.values()) == pytest.approx(1.786e12, rel=1e-3)
