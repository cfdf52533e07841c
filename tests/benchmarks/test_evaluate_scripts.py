"""The scripts behind the figures of evaluation, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import evaluate, parsers


def test_every_parser_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = [("B", "B"), ("A man walks.", None), ("Not A, but C.", "C")]
    rows = [{"options": ["x", "y", "z"], "reply": reply, "answer": answer} for reply, answer in replies]
    path = tmp_path / "replies.jsonl"
    rows[2]["batch"] = "later"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parsers.main([str(path)])
    head, _, *table = capsys.readouterr().out.splitlines()
    table, (_, first, later) = table[: len(parsers.PARSERS)], table[len(parsers.PARSERS) :]
    assert head.startswith("3 replies, 1 without a single choice")
    assert [line.split("  ")[0] for line in table] == list(parsers.PARSERS)
    # The first capital: guessed at in the second, wrong in the third.
    assert table[0].split()[1:] == ["2", "66.7%", "1", "1", "0"]
    assert table[-1].split()[2:] == ["0", "0.0%", "0", "0", "0"]
    assert (first.split()[1:3], later.split()[:3]) == (["2", "50.0%"], ["later", "1", "100.0%"])


def test_pace_is_that_of_the_second_half() -> None:
    answers = [("a", 1.0), ("a", 10.0), ("b", 11.0), ("c", 12.0), ("d", 13.0)]
    pace = evaluate.pace_of(answers, whole_s=13.0, cpu_s=4.0)
    assert (pace.whole_s, pace.videos_per_s, pace.cpu_s) == (13.0, 1.0, 4.0)
