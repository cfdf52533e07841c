"""The figures' scripts of training run, at a size that takes seconds; the plan keeps its floors even there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks import train_plan, train_reader


def test_plan_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train_plan", "--samples", "30000", "--scaling", "20000"])
    assert train_plan.main() == 0
    assert "published: length-grouped sampler" in capsys.readouterr().out


def test_reader_and_scan_read_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_reader.compare(tmp_path, videos=3, frames=2, rounds=1, threads=2)
    assert "GB/s" in capsys.readouterr().out
