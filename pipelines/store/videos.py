"""From the rows that units wrote to one row per source.

A long source is extracted in chunks by several units; it appears once all of them are committed. A source that two
runs planned at the same time, or that was taken out of quarantine and tried again, appears once: as the latest try
that did not fail, or else as the latest failure.

Shapes: N rows, P of them parts of what is shown, C cuts of sources into chunks, S sources.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.features import add_digests
from pipelines.store.schema import FAILED, OK, TRUNCATED, VIDEOS

_CHUNK_COLUMNS = ("unit_id", "chunk", "num_chunks", "first_sample")
_NEEDED = ("source", "version", "status", "error", "message", "retry", "unit_id", "chunk", "num_chunks")
_JOINED = ("frame_index", "pts_s", "similarity", "kept", "stored")
_ADDED = ("num_sampled", "num_kept", "num_stored")
_CAUSE = ("error", "message", "log_tail")
_DIGESTS = tuple(name for name in VIDEOS.names if name.endswith("_digest"))

MERGED = pa.schema([field for field in VIDEOS if field.name not in _CHUNK_COLUMNS]).append(
    pa.field("units", pa.list_(pa.string()), metadata={"about": "units that hold its frames, in order"})
)

PER_FRAME = frozenset(_JOINED)
"""Columns with a value per sampled frame: nearly all of the table's size."""


def stored_columns(columns: Iterable[str]) -> list[str]:
    """The columns to read from the videos files for these columns of :data:`MERGED`."""
    wanted = {*columns, *_NEEDED}
    return [name for name in VIDEOS.names if name in wanted]


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of a videos file under a schema; columns that are younger than the file are null."""
    found = set(rows.column_names)
    columns = [
        rows[field.name].cast(field.type) if field.name in found else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def merge_chunks(rows: pa.Table) -> pa.Table:
    """One row per source and version, in the order of the sources' names.

    What follows the first chunk of a source that is not ok is no part of the video.

    Args:
        rows: all committed rows, at least the columns that :func:`stored_columns` always has.

    Returns:
        a table of :data:`MERGED`, without the columns that ``rows`` lacks; sources with an uncommitted chunk are
        left out.
    """
    chunks_N, starts_S = _shown(rows)
    status = rows["status"].take(chunks_N)
    bad_N = pc.not_equal(status, OK).to_numpy()
    good_N = ~pc.equal(status, FAILED).to_numpy() & (_earlier(bad_N, starts_S) == 0)
    first_bad_N = bad_N & (_earlier(bad_N, starts_S) == 0)
    any_good_S = _reduce(np.logical_or, good_N, starts_S)
    part_N = good_N.copy()
    part_N[starts_S[~any_good_S]] = True
    parts = _Parts(rows, chunks_N[part_N], _starts(part_N, starts_S))

    cause = np.full(len(starts_S), -1)
    cause[np.searchsorted(starts_S, np.flatnonzero(first_bad_N), side="right") - 1] = chunks_N[first_bad_N]
    columns: dict[str, Any] = {"units": parts.lists("unit_id")}
    for name in MERGED.names:
        if name not in rows.schema.names:
            continue
        if name == "status":
            shown_S = np.where(cause < 0, OK, np.where(any_good_S, TRUNCATED, FAILED))
            columns[name] = pa.array(shown_S, pa.string())
        elif name in _CAUSE:
            columns[name] = rows[name].take(pa.array(cause, mask=cause < 0))
        elif name == "attempts":
            columns[name] = pa.array(_reduce(np.maximum, _numbers(rows[name].take(chunks_N)), starts_S), pa.int32())
        elif name in _JOINED:
            columns[name] = parts.joined(name)
        elif name in _ADDED:
            columns[name] = parts.sums(name)
        elif name in _DIGESTS:
            columns[name] = parts.combined(name, add_digests)
        elif name == "decoder":
            columns[name] = parts.combined(name, lambda names: ", ".join(dict.fromkeys(names)))
        else:
            columns[name] = parts.first(name)
    schema = pa.schema([field for field in MERGED if field.name in columns])
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _shown(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Which of a source's tries counts: the latest that did not fail, or else the latest.

    A try, and a cut into chunks, counts once all of its chunks are there. A source is nothing without its first chunk,
    so that one alone decides whether a try failed. A chunk that two drivers did is taken from the one that succeeded.

    Returns:
        positions of the chunks of those tries, in the order of source, version and chunk; where each source starts.
    """
    keys = pa.table(
        {
            "source": rows["source"],
            "version": rows["version"],
            "tries_before": pc.negate(pc.fill_null(rows["retry"], 0)),
            "num_chunks": rows["num_chunks"],
            "chunk": rows["chunk"],
            "failed": pc.cast(pc.equal(rows["status"], FAILED), pa.int8()),
        }
    ).combine_chunks()
    order_N = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()
    keys = keys.take(order_N)
    new_source_N = _changes(keys, "source", "version")
    new_cut_N = new_source_N | _changes(keys, "tries_before", "num_chunks")
    once_N = new_cut_N | _changes(keys, "chunk")
    order_N, new_source_N, new_cut_N = order_N[once_N], new_source_N[once_N], new_cut_N[once_N]
    num_chunks_N, failed_N = (keys[name].to_numpy()[once_N] for name in ("num_chunks", "failed"))

    first_C = np.flatnonzero(new_cut_N)
    count_C = np.diff(first_C, append=len(order_N))
    source_C = np.cumsum(new_source_N)[first_C]
    whole_C = np.flatnonzero(count_C == num_chunks_N[first_C])
    whole_C = whole_C[np.lexsort((failed_N[first_C[whole_C]], source_C[whole_C]))]
    shown_S = whole_C[np.unique(source_C[whole_C], return_index=True)[1]]
    starts_S = np.cumsum(count_C[shown_S]) - count_C[shown_S]
    within = np.arange(count_C[shown_S].sum()) - np.repeat(starts_S, count_C[shown_S])
    return order_N[np.repeat(first_C[shown_S], count_C[shown_S]) + within], starts_S


def join_frames(chunks: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns with a value per sampled frame, over the chunks of one source; of copies of a chunk the first."""
    once: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        once.setdefault(chunk["chunk"], chunk)
    return {name: [value for _, chunk in sorted(once.items()) for value in chunk[name] or ()] for name in _JOINED}


@dataclass(frozen=True)
class _Parts:
    """The chunks that make up each source: positions of rows, source after source, and where each source starts."""

    rows: pa.Table
    positions_P: np.ndarray
    starts_S: np.ndarray

    def first(self, name: str) -> pa.ChunkedArray:
        """Of every source the first part's value."""
        return self.rows[name].take(self.positions_P[self.starts_S])

    def lists(self, name: str) -> pa.ListArray:
        """All parts' values."""
        values = self.rows[name].take(self.positions_P).combine_chunks()
        return pa.ListArray.from_arrays(pa.array(self._ends, pa.int32()), values)

    def joined(self, name: str) -> pa.ListArray:
        """The parts' lists one after the other."""
        lists = self.rows[name].take(self.positions_P).combine_chunks()
        offsets_P = np.concatenate([[0], np.cumsum(_numbers(pc.list_value_length(lists)))])
        return pa.ListArray.from_arrays(pa.array(offsets_P[self._ends], pa.int32()), lists.flatten())

    def sums(self, name: str) -> pa.Array:
        totals_P = np.concatenate([[0], np.cumsum(_numbers(self.rows[name].take(self.positions_P)))])
        return pa.array(np.diff(totals_P[self._ends]), pa.int32())

    def combined(self, name: str, combine: Callable[[list[str]], str]) -> pa.Array:
        """The value of sources of one part; of the others what ``combine`` makes of the parts' that are not null."""
        values_P = self.rows[name].take(self.positions_P).to_pylist()
        values_S = [values_P[start] for start in self.starts_S]
        for source in np.flatnonzero(np.diff(self._ends) > 1):
            several = [value for value in values_P[self._ends[source] : self._ends[source + 1]] if value is not None]
            values_S[source] = combine(several) if several else None
        return pa.array(values_S, pa.string())

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.append(self.starts_S, len(self.positions_P))


def _changes(keys: pa.Table, *names: str) -> np.ndarray:
    """Where a row differs from the one before it in any of these columns; the first one does."""
    changed_N = np.ones(len(keys), bool)
    differs = [pc.not_equal(keys[name][1:], keys[name][:-1]).to_numpy() for name in names]
    changed_N[1:] = np.logical_or.reduce(differs)
    return changed_N


def _earlier(flags_N: np.ndarray, starts_S: np.ndarray) -> np.ndarray:
    """How many flags of the same source stand before each row."""
    before_N = np.cumsum(flags_N) - flags_N
    return before_N - np.repeat(before_N[starts_S], np.diff(starts_S, append=len(flags_N)))


def _starts(chosen_N: np.ndarray, starts_S: np.ndarray) -> np.ndarray:
    """Where each source starts once only the chosen rows are left."""
    return (np.cumsum(chosen_N) - chosen_N)[starts_S]


def _reduce(function: np.ufunc, values_N: np.ndarray, starts_S: np.ndarray) -> np.ndarray:
    """One value per source; numpy's own refuses to reduce nothing."""
    return function.reduceat(values_N, starts_S) if len(starts_S) else values_N[:0]


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(column, 0).to_numpy()
