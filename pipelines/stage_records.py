"""A note for every finished stage of a run folder: its command, how long it took, what it made.

    <folder>/stages/<name>.json

By it a story of several jobs is told on where it broke off, and a report knows commands and times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_FOLDER = "stages"


@dataclass(frozen=True)
class StageRecord:
    """A finished stage.

    Args:
        name: of the stage.
        about: what it does, in a line.
        command: what was run, as one would type it.
        seconds: from its start to its end; of the last start only, if it was interrupted.
        ended_s: when it ended, in seconds since the epoch.
        found: what its output told, by name.
        paths: what must still be there for the stage to count.
    """

    name: str
    about: str
    command: Sequence[str]
    seconds: float
    ended_s: float
    found: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        path = _path(folder, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(partial, path)

    @property
    def holds(self) -> bool:
        """Whether what it made is still there."""
        return all(Path(path).exists() for path in self.paths)


def read_stage(folder: Path, name: str) -> StageRecord | None:
    """The record of a finished stage; None where there is none."""
    path = _path(folder, name)
    return StageRecord(**json.loads(path.read_text())) if path.is_file() else None


def read_stages(folder: Path) -> list[StageRecord]:
    """All finished stages, in the order in which they ended."""
    found = [StageRecord(**json.loads(path.read_text())) for path in (folder / _FOLDER).glob("*.json")]
    return sorted(found, key=lambda record: record.ended_s)


def _path(folder: Path, name: str) -> Path:
    return folder / _FOLDER / f"{name.replace(' ', '-')}.json"
