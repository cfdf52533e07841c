"""Reference vectors of LongVU: which folders hold them, and what is checked in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.golden import longvu_runs, longvu_units, text_checks
from tests.golden.result import Result

PARTS = {
    "units": longvu_units.check_units,
    "names": longvu_units.check_names,
    "preprocess": text_checks.check_preprocess,
    "text": text_checks.check_text,
    "e2e": longvu_runs.check_e2e,
    "pipeline": longvu_runs.check_pipeline,
    "train": lambda folder: (*text_checks.check_train_collation(folder), *longvu_runs.check_train(folder)),
}


def recognises(folder: Path) -> bool:
    """Whether the folder has one of the parts of golden/longvu."""
    return any((folder / part).is_dir() for part in PARTS)


def check(folder: Path) -> Iterator[Result]:
    """Every part that the folder has, in order."""
    for part, check_part in PARTS.items():
        if (folder / part).is_dir():
            yield from check_part(folder)
