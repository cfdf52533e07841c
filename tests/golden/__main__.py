"""Checks a folder of reference vectors: ``python -m tests.golden DIR``.

Prints one line per case with its largest relative error, and exits with 1 if any case fails, 2 if the folder is not
one of ours. Everything is read from the folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.golden import longvu_runs, longvu_units, text_checks
from tests.golden.result import Result

LONGVU_PARTS = {
    "units": longvu_units.check_units,
    "names": longvu_units.check_names,
    "preprocess": text_checks.check_preprocess,
    "text": text_checks.check_text,
    "e2e": longvu_runs.check_e2e,
    "pipeline": longvu_runs.check_pipeline,
    "train": lambda folder: (*text_checks.check_train_collation(folder), *longvu_runs.check_train(folder)),
}


def check_longvu(folder: Path) -> Iterator[Result]:
    """Every part that the folder has, in order."""
    for part, check in LONGVU_PARTS.items():
        if (folder / part).is_dir():
            yield from check(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder in the format of golden/longvu/README.md")
    folder = parser.parse_args(arguments).folder
    if not any((folder / part).is_dir() for part in LONGVU_PARTS):
        print(f"{folder} holds none of {', '.join(LONGVU_PARTS)}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    failed = total = 0
    worst = 0.0
    for result in check_longvu(folder):
        total += 1
        failed += not result.passed
        worst = max(worst, result.max_relative_error)
        verdict = "ok  " if result.passed else "FAIL"
        detail = f"  {result.detail}" if result.detail else ""
        print(f"{verdict} {result.max_relative_error:8.1e}  {result.name}{detail}", flush=True)
    print(f"{total} cases, {failed} failed, largest relative error {worst:.1e}")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
