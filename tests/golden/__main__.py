"""Checks a folder of reference vectors: ``python -m tests.golden DIR``.

Prints one line per case with its largest relative error, and exits with 1 if any case fails, 2 if the folder is not
one of ours. Everything is read from the folder, which system it belongs to as well. Cases that the folder itself marks
as undecided (ties, rounding) are listed as excluded and not compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from tests.golden import llamavid, longvu, niavh, videollamb
from tests.golden.result import Result


class Checker(Protocol):
    """A module that checks the vectors of one system."""

    __name__: str

    def recognises(self, folder: Path) -> bool:
        """Whether the folder holds this system's vectors, all of them or a part."""

    def check(self, folder: Path) -> Iterator[Result]:
        """One result per case."""


CHECKERS: tuple[Checker, ...] = (longvu, niavh, llamavid, videollamb)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of reference vectors, such as golden/longvu")
    folder = parser.parse_args(arguments).folder
    checker = next((checker for checker in CHECKERS if checker.recognises(folder)), None)
    if checker is None:
        names = ", ".join(checker.__name__.rpartition(".")[2] for checker in CHECKERS)
        print(f"{folder} holds no reference vectors of {names}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    failed = total = excluded = 0
    worst = 0.0
    for result in checker.check(folder):
        detail = f"  {result.detail}" if result.detail else ""
        if result.excluded:
            excluded += 1
            print(f"excl          {result.name}{detail}", flush=True)
            continue
        total += 1
        failed += not result.passed
        worst = max(worst, result.max_relative_error)
        verdict = "ok  " if result.passed else "FAIL"
        print(f"{verdict} {result.max_relative_error:8.1e}  {result.name}{detail}", flush=True)
    left_out = f", {excluded} excluded" if excluded else ""
    print(f"{total} cases, {failed} failed{left_out}, largest relative error {worst:.1e}")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
