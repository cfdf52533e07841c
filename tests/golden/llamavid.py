"""Reference vectors of LLaMA-VID: which folders hold them, and what is checked in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.golden import llamavid_runs, llamavid_text
from tests.golden.result import Result


def recognises(folder: Path) -> bool:
    """Whether the folder is one of golden/llamavid: a Q-Former's vocabulary beside its cases."""
    return (folder / "cases.json").is_file() and (folder / "bert_vocab.txt").is_file()


def check(folder: Path) -> Iterator[Result]:
    """Every case and every table of the folder."""
    yield from llamavid_runs.check_runs(folder)
    yield from llamavid_text.check_text(folder)
