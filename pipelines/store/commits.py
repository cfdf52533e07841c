"""Commits: a unit is finished exactly when ``commits/<unit>.json`` exists.

The file appears in one atomic write after everything it names is in place. A unit that is done again overwrites its
own commit, and readers follow whichever is there; the other attempt's files are orphans.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import storage

FOLDER = "commits"
_SUFFIX = ".json"
_READERS = 32


@dataclass(frozen=True)
class StoredFile:
    """A file that a commit vouches for; ``path`` is relative to the store."""

    path: str
    sha256: str
    size_bytes: int
    rows: int


@dataclass(frozen=True)
class Commit:
    """A finished unit.

    Args:
        unit_id: name of the commit.
        frames, videos: its two files.
        video_ids: sources it holds (a part of), in row order; null for unreadable ones.
        counts: sources by status, and frames ``sampled``, ``kept`` and ``stored``.
        errors: failed sources by class of error.
        seconds: busy time by stage.
        run_id: run that did the work.
        code_version: version of this project.
        committed_at: UTC, ISO 8601.
    """

    unit_id: str
    frames: StoredFile
    videos: StoredFile
    video_ids: tuple[str | None, ...]
    counts: dict[str, int]
    errors: dict[str, int]
    seconds: dict[str, float]
    run_id: str
    code_version: str
    committed_at: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        record: dict[str, Any] = json.loads(data)
        record["frames"] = StoredFile(**record["frames"])
        record["videos"] = StoredFile(**record["videos"])
        record["video_ids"] = tuple(record["video_ids"])
        return cls(**record)


def write_commit(store: str, commit: Commit) -> None:
    """Make a unit visible; the last step of its work."""
    storage.write_bytes(_uri(store, commit.unit_id), commit.to_json())


def committed_units(store: str) -> set[str]:
    """Ids of finished units, from names alone: nothing is read."""
    names = (item.uri.rpartition("/")[2] for item in storage.listing(storage.join(store, FOLDER)))
    return {name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)}


def read_commits(store: str, units: Iterable[str] | None = None) -> list[Commit]:
    """Commits in the order of their unit ids; all of them when ``units`` is absent."""
    wanted = sorted(committed_units(store) if units is None else units)
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda unit: Commit.from_json(storage.read_bytes(_uri(store, unit))), wanted))


def _uri(store: str, unit_id: str) -> str:
    return storage.join(store, FOLDER, unit_id + _SUFFIX)
