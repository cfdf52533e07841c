"""The figures' scripts run and agree with their oracles, at a size that takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from longvu_model.presets import PRESETS
from tests.benchmarks import compression, decode_cost, incremental
from tests.benchmarks.gpu import encode as gpu_encode
from tests.benchmarks.gpu import model as gpu_model
from tests.pipelines.conftest import write_video


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


def test_looking_for_new_sources_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < incremental.look_through(tmp_path / "scale", 300).wall_s < 10
    assert "looking: 3 new among 300" in capsys.readouterr().out


def test_decoding_is_measured_with_its_child(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [10], size=(640, 352))
    assert decode_cost.measured_s(path, "fps:4", repeats=1) > decode_cost.measured_s(path, "fps:0.1", repeats=1)
