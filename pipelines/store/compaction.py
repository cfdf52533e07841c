"""Compaction: what many finished units wrote in two small files each, in a few large ones.

It takes the units' records and their rows of the videos table; frames files stay as they are. It may be killed at any
point and run beside extraction, readers and other compactions: a record is deleted only once a durable compacted file
has it, and only in the version that was read. Replaced files stay for those who opened the store before, until a sweep.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store.commits import (
    COMPACTED,
    Commit,
    Commits,
    Compaction,
    StoredFile,
    commit_uri,
    compaction_files,
    own_records,
    read_commits,
    unit_of,
)
from pipelines.store.schema import COMMITS, VIDEOS
from pipelines.store.videos import PER_FRAME, conformed
from pipelines.store.writer import VIDEOS_FOLDER, check_not_too_late, write_table

_READERS = 32
# Rows of the videos table that one compaction takes, in memory, and how large they are there.
_BATCH_BYTES = 128 << 20
_ROW_BYTES = 1000
_FRAME_BYTES = 21
# Rows that are read to get at one video's values per frame: a request, and about a megabyte.
_ROWS_PER_GROUP = 64
_INDEX_ROWS_PER_GROUP = 1 << 16


@dataclass(frozen=True)
class CompactionResult:
    """What a compaction did.

    Args:
        units: that had a record of their own and are compacted now.
        files: compacted files written.
        problems: units and files that were left as they are because they are damaged, one line each.
    """

    units: int
    files: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Rows to take in: all of a unit's own file, or those of a compaction that count."""

    file: StoredFile
    commits: tuple[Commit, ...]
    compaction: Compaction | None = None


def compact(store: str, *, min_units: int = 1) -> CompactionResult:
    """Compact a store.

    Args:
        min_units: do nothing below so many units with records of their own.
    """
    # Listed before they are read, so that a record that was written again since is known by its version.
    versions = {unit_of(item): item.version for item in own_records(store)}
    if len(versions) < max(1, min_units):
        return CompactionResult(0, 0, ())
    commits = read_commits(store)
    own = [commit for unit, commit in commits.own.items() if unit in versions]
    units, files, problems = 0, 0, []
    for parts in _batches(own, commits):
        compacted, damaged = _write_batch(store, parts)
        problems += damaged
        with ThreadPoolExecutor(_READERS) as removers:
            done = [part.commits[0].unit_id for part in compacted if part.compaction is None]
            list(removers.map(lambda unit: _remove_record(store, unit, versions[unit]), done))
        units += len(done)
        files += bool(compacted)
    return CompactionResult(units, files, tuple(problems))


def _batches(own: Sequence[Commit], commits: Commits) -> Iterator[list[_Part]]:
    """Units in the order in which they were finished, and with the last of them older compactions of little content.

    A compaction is taken in when it is at most twice as large as what is there already. So their number grows with the
    logarithm of the store's size, up to the size of a batch, and a row is not rewritten again and again.
    """
    batch: list[_Part] = []
    total = 0
    for commit in sorted(own, key=lambda commit: (commit.committed_at, commit.unit_id)):
        if total > _BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(_Part(commit.videos, (commit,)))
        total += _size_bytes(len(commit.video_ids), commit.counts["sampled"])
    sizes = {compaction: _size_of(compaction) for compaction in commits.compactions}
    for compaction in sorted(sizes, key=lambda compaction: sizes[compaction]):
        if sizes[compaction] <= min(2 * total, _BATCH_BYTES - total):
            units = compaction.rows["unit_id"].to_pylist()
            counting = [commits[unit] for unit in units if commits.compacted_in(unit) is compaction]
            batch.append(_Part(compaction.videos, tuple(counting), compaction))
            total += sizes[compaction]
    if batch:
        yield batch


def _size_of(compaction: Compaction) -> int:
    sampled = pc.sum(pc.map_lookup(compaction.rows["counts"], "sampled", "first")).as_py()
    return _size_bytes(compaction.videos.rows, sampled or 0)


def _size_bytes(rows: int, frames: int) -> int:
    return rows * _ROW_BYTES + frames * _FRAME_BYTES


def _write_batch(store: str, parts: Sequence[_Part]) -> tuple[list[_Part], list[str]]:
    """Write one compaction; returns what it holds, and what is wrong with the other parts."""
    began_s = time.time()
    with ThreadPoolExecutor(_READERS) as readers:
        read = list(readers.map(lambda part: _read(store, part), parts))
    problems = [rows for rows in read if isinstance(rows, str)]
    sound = [part for part, rows in zip(parts, read, strict=True) if not isinstance(rows, str)]
    if not sound:
        return [], problems
    order = [(column, "ascending") for column in ("source", "version", "retry", "chunk")]
    rows = pa.concat_tables(rows for rows in read if not isinstance(rows, str)).sort_by(order)

    existing = compaction_files(store)
    number = 1 + max((int(name.split("-")[1]) for name in existing), default=0)
    name = f"{COMPACTED}{number:06d}-{secrets.token_hex(4)}"
    videos = write_table(store, f"{VIDEOS_FOLDER}/{name}.parquet", [rows], rows_per_group=_ROWS_PER_GROUP)
    bare = rows.drop_columns(sorted(PER_FRAME))
    index = write_table(store, f"{VIDEOS_FOLDER}/{name}.index.parquet", [bare], rows_per_group=_INDEX_ROWS_PER_GROUP)
    records = [asdict(replace(commit, videos=videos)) for part in sound for commit in part.commits]
    replaced = [part.compaction for part in sound if part.compaction is not None]
    # What they superseded themselves is named again, for they will not be read any more.
    superseded = {name for compaction in replaced for name in (compaction.name, *compaction.supersedes)}
    table = pa.Table.from_pylist(records, COMMITS)
    check_not_too_late(store, began_s)
    Compaction(name, videos, index, tuple(sorted(superseded & existing.keys())), table).write(store)
    return sound, problems


def _read(store: str, part: _Part) -> pa.Table | str:
    """The rows that count, or what is wrong with them: damage must not be copied under a new digest."""
    try:
        data = storage.read_bytes(storage.join(store, part.file.path))
    except FileNotFoundError:
        return f"{part.file.path}: committed but missing"
    if hashlib.sha256(data).hexdigest() != part.file.sha256:
        return f"{part.file.path}: content differs from the committed SHA-256"
    rows = conformed(pq.ParquetFile(pa.BufferReader(data)).read(VIDEOS.names, use_threads=False), VIDEOS)
    if part.compaction is None:
        return rows
    units = pa.array([commit.unit_id for commit in part.commits], pa.string())
    return rows.filter(pc.is_in(rows["unit_id"], units))


def _remove_record(store: str, unit: str, version: str) -> None:
    """Delete a unit's own record unless it was written again since."""
    uri = commit_uri(store, unit)
    with contextlib.suppress(FileNotFoundError):
        if storage.stat(uri).version == version:
            storage.remove(uri)
