"""The scripts that time the store run, and find every mask and every count as it should be."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks import store_scale, threshold


def test_a_small_store_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store_scale", "--videos", "50", "--per-unit", "4", "--own", "3", "--where", "local"]
    monkeypatch.setattr(sys, "argv", words)
    store_scale.main()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows[2:]] == [["local", "50"]] * 3
    assert [len(row.split()) for row in rows[2:]] == [7, 7, 9]


def test_masks_of_all_ways_agree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["threshold", "--videos", "1", "--thresholds", "0.75", "0.9"])
    threshold.main()
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[-3:-1]]
    assert [row[-1] for row in rows] == ["yes", "yes"]
    assert 0 < int(rows[0][2]) < int(rows[1][2])
