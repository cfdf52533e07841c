"""Commits: a unit is finished exactly when a record of it is in ``commits/``.

A unit's own record, ``<unit>.json``, appears in one atomic write after everything it names is in place. A unit that
is done again overwrites it, and readers follow whichever is there; the other attempt's files are orphans.

Compaction moves records into ``compacted-<n>-<random>.parquet``, many in one, and deletes the units' own after that.
So everybody lists the units' own records first and the compacted ones second, and a record that is gone when it is
read makes the reader begin again: a unit is then always found in one of the two. A unit's own record wins over a
compacted one, a later compacted one over an earlier. Compacted files that others supersede stay until a sweep.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.storage import StoredObject
from pipelines.store.schema import COMMITS

T = TypeVar("T")

FOLDER = "commits"
COMPACTED = "compacted-"
_OWN = ".json"
_MANY = ".parquet"
_METADATA = b"compaction"
_READERS = 32
_TRIES = 10


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
        frames, videos: the files with its rows; ``videos`` holds other units' rows too once it is compacted.
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
        return cls.from_record(json.loads(data))

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Commit:
        """From the values of a JSON commit, or of a row of :data:`pipelines.store.schema.COMMITS`."""
        files = {name: StoredFile(**record[name]) for name in ("frames", "videos")}
        counts = {name: dict(record[name]) for name in ("counts", "errors", "seconds")}
        return cls(**record | files | counts | {"video_ids": tuple(record["video_ids"])})


@dataclass(frozen=True, eq=False)
class Compaction:
    """One ``compacted-*.parquet``.

    Args:
        name: without folder and suffix; later ones have greater names.
        videos: the videos rows of all its units, in the order of their sources.
        index: the same without the columns that have a value per sampled frame.
        supersedes: names of compactions whose units it holds too.
        rows: a table of :data:`pipelines.store.schema.COMMITS`, or some columns of it.
    """

    name: str
    videos: StoredFile
    index: StoredFile
    supersedes: tuple[str, ...]
    rows: pa.Table

    def write(self, store: str) -> None:
        """Make it visible, in one atomic write."""
        facts = {"videos": asdict(self.videos), "index": asdict(self.index), "supersedes": self.supersedes}
        buffer = pa.BufferOutputStream()
        pq.write_table(self.rows.replace_schema_metadata({_METADATA: json.dumps(facts)}), buffer, compression="zstd")
        storage.write_bytes(compaction_uri(store, self.name), buffer.getvalue().to_pybytes())

    @classmethod
    def read(cls, store: str, name: str, columns: Sequence[str] = COMMITS.names) -> Compaction:
        rows = pq.read_table(storage.arrow_input(compaction_uri(store, name)), columns=list(columns))
        facts = json.loads(rows.schema.metadata[_METADATA])
        videos, index = (StoredFile(**facts[kind]) for kind in ("videos", "index"))
        return cls(name, videos, index, tuple(facts["supersedes"]), rows.replace_schema_metadata())


class Commits(Mapping[str, Commit]):
    """Finished units by id, in the order of their ids; compacted records are parsed when they are asked for."""

    def __init__(self, own: Mapping[str, Commit], compactions: Sequence[Compaction]):
        self.own = own
        self.compactions = tuple(compactions)
        self._places: dict[str, tuple[Compaction, int]] = {}
        for compaction in self.compactions:
            units = compaction.rows["unit_id"].to_pylist()
            self._places |= {unit: (compaction, row) for row, unit in enumerate(units) if unit not in own}

    def __getitem__(self, unit_id: str) -> Commit:
        if unit_id in self.own:
            return self.own[unit_id]
        compaction, row = self._places[unit_id]
        return Commit.from_record(compaction.rows.slice(row, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self.own) + len(self._places)

    def compacted_in(self, unit_id: str) -> Compaction | None:
        """The compaction that has the unit's rows; None where its own files have them."""
        place = self._places.get(unit_id)
        return place[0] if place else None

    @functools.cached_property
    def table(self) -> pa.Table:
        """All of them as one table of :data:`pipelines.store.schema.COMMITS`, in no order."""
        rows = defaultdict(list)
        for compaction, row in self._places.values():
            rows[compaction.name].append(row)
        parts = [
            compaction.rows.take(rows[compaction.name]) for compaction in self.compactions if compaction.name in rows
        ]
        own = pa.Table.from_pylist([asdict(commit) for commit in self.own.values()], COMMITS)
        return pa.concat_tables([own, *(part.cast(COMMITS) for part in parts)])

    @functools.cached_property
    def _order(self) -> list[str]:
        return sorted([*self.own, *self._places])


def write_commit(store: str, commit: Commit) -> None:
    """Make a unit visible; the last step of its work."""
    storage.write_bytes(commit_uri(store, commit.unit_id), commit.to_json())


def committed_units(store: str) -> set[str]:
    """Ids of finished units; of units that are not compacted no more than the names is read."""

    def units() -> set[str]:
        own = {unit_of(item) for item in own_records(store)}
        compactions = read_compactions(store, ["unit_id"])
        return own.union(*(compaction.rows["unit_id"].to_pylist() for compaction in compactions))

    return until_still(units)


def read_commits(store: str) -> Commits:
    """All finished units."""

    def commits() -> Commits:
        wanted = [item.uri for item in own_records(store)]
        compactions = read_compactions(store)
        with ThreadPoolExecutor(_READERS) as readers:
            own = readers.map(lambda uri: Commit.from_json(storage.read_bytes(uri)), wanted)
            return Commits({commit.unit_id: commit for commit in own}, compactions)

    return until_still(commits)


def own_records(store: str) -> list[StoredObject]:
    """Where the commits are that have a file of their own."""
    return [item for item in storage.listing(storage.join(store, FOLDER)) if item.uri.endswith(_OWN)]


def unit_of(record: StoredObject) -> str:
    """The unit that a file of :func:`own_records` commits."""
    return record.uri.rpartition("/")[2].removesuffix(_OWN)


def compaction_files(store: str) -> dict[str, StoredObject]:
    """Compacted files by their names, superseded ones included, the latest first."""
    found = storage.listing(storage.join(store, FOLDER), prefix=COMPACTED)
    named = {item.uri.rpartition("/")[2].removesuffix(_MANY): item for item in found}
    return dict(sorted(named.items(), reverse=True))


def read_compactions(store: str, columns: Sequence[str] = COMMITS.names) -> list[Compaction]:
    """Compactions that no other supersedes, the earliest first."""
    live: list[Compaction] = []
    superseded: set[str] = set()
    for name in compaction_files(store):
        if name not in superseded:
            live.append(Compaction.read(store, name, columns))
            superseded.update(live[-1].supersedes)
    return live[::-1]


def until_still(read: Callable[[], T]) -> T:
    """Repeat what found that a listed record is gone, because a compaction or a sweep came in between."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def commit_uri(store: str, unit_id: str) -> str:
    return storage.join(store, FOLDER, unit_id + _OWN)


def compaction_uri(store: str, name: str) -> str:
    return storage.join(store, FOLDER, name + _MANY)
