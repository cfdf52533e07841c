"""Reference vectors of VideoLLaMB: which folders hold them, and what is checked in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.golden import videollamb_runs, videollamb_text, videollamb_units
from tests.golden.result import Result

_FILES = {
    "scenetilling.json": videollamb_units.check_scenes,
    "index_rules.json": videollamb_units.check_index_rules,
    "prompts.json": videollamb_text.check_prompts,
    "streaming.json": videollamb_runs.check_streaming,
}


def recognises(folder: Path) -> bool:
    """Whether the folder has cases of golden/videollamb; ``prompts.json`` alone could be another system's."""
    cases = folder / "cases.json"
    if not cases.is_file():
        return False
    kinds = {case["kind"] for case in json.loads(cases.read_text())["cases"]}
    return bool(kinds & {"scenetilling", "bridge_base", "bridge_mem", "bridge_step", "retro_loss", "streaming"})


def check(folder: Path) -> Iterator[Result]:
    """Everything that the folder has."""
    for name, check_file in _FILES.items():
        if (folder / name).is_file():
            yield from check_file(folder)
    yield from videollamb_units.check_parts(folder)
    yield from videollamb_runs.check_names(folder)
    yield from videollamb_runs.check_runs(folder)
