"""From the rows that units wrote to one row per source.

A long source is extracted in chunks by several units; it appears once all of them are committed. A source that two
runs planned at the same time, or that was taken out of quarantine and tried again, appears once: as the latest try
that did not fail, or else as the latest failure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from pipelines.store.features import add_digests
from pipelines.store.schema import FAILED, OK, TRUNCATED, VIDEOS

_CHUNK_COLUMNS = ("unit_id", "chunk", "num_chunks", "first_sample")
_NEEDED = ("source", "version", "status", "error", "message", "retry", "unit_id", "chunk", "num_chunks")
_JOINED = ("frame_index", "pts_s", "similarity", "kept", "stored")
_ADDED = ("num_sampled", "num_kept", "num_stored")
_CAUSE = ("error", "message", "log_tail")
_DIGESTS = ("dinov2_digest", "siglip_digest")

MERGED = pa.schema([field for field in VIDEOS if field.name not in _CHUNK_COLUMNS]).append(
    pa.field("units", pa.list_(pa.string()), metadata={"about": "units that hold its frames, in order"})
)

PER_FRAME = frozenset(_JOINED)
"""Columns with a value per sampled frame: nearly all of the table's size."""


def stored_columns(columns: Iterable[str]) -> list[str]:
    """The columns to read from the videos files for these columns of :data:`MERGED`."""
    wanted = {*columns, *_NEEDED}
    return [name for name in VIDEOS.names if name in wanted]


def merge_chunks(rows: pa.Table) -> pa.Table:
    """One row per source and version, in the order of the sources' names.

    Args:
        rows: all committed rows, at least the columns that :func:`stored_columns` always has.

    Returns:
        a table of :data:`MERGED`, without the columns that ``rows`` lacks; sources with an uncommitted chunk are
        left out.
    """
    names = ("source", "version", "retry", "num_chunks", "chunk", "status")
    tries: dict[tuple[str, str], dict[tuple[int, int], dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    failed = []
    for position, (source, version, retry, num_chunks, chunk, status) in enumerate(
        zip(*(rows[name].to_pylist() for name in names), strict=True)
    ):
        failed.append(status == FAILED)
        parts = tries[source, version][retry or 0, -num_chunks]
        if chunk not in parts or (failed[parts[chunk]] and not failed[position]):
            parts[chunk] = position

    whole, merged = [], []
    for source in sorted(tries):
        # A source is nothing without its first part, so that part alone decides whether a try failed.
        complete = [(not failed[parts[0]], cut) for cut, parts in tries[source].items() if len(parts) == -cut[1]]
        if not complete:
            continue
        positions = [position for _, position in sorted(tries[source][max(complete)[1]].items())]
        if len(positions) == 1:
            whole += positions
        else:
            merged.append(_merge(rows.take(positions).to_pylist()))

    schema = pa.schema([field for field in MERGED if field.name == "units" or field.name in rows.schema.names])
    single = rows.take(pa.array(whole, pa.int64()))
    units = pa.array([[unit] for unit in single["unit_id"].to_pylist()], pa.list_(pa.string()))
    single = single.append_column(schema.field("units"), units).select(schema.names).cast(schema)
    table = pa.concat_tables([single, pa.Table.from_pylist(merged, schema)])
    return table.sort_by([("source", "ascending"), ("version", "ascending")]) if merged else table


def join_frames(chunks: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns with a value per sampled frame, over the chunks of one source."""
    ordered = sorted(chunks, key=lambda chunk: chunk["chunk"])
    present = [name for name in _JOINED if all(name in chunk for chunk in ordered)]
    return {name: [value for chunk in ordered for value in chunk[name] or ()] for name in present}


def _merge(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A source's chunks in order -> its row. What follows the first chunk that is not ok is not part of the video."""
    good = _good_prefix(chunks)
    bad = next((chunk for chunk in chunks if chunk["status"] != OK), None)
    row = dict(good[0] if good else chunks[0])
    row["units"] = [chunk["unit_id"] for chunk in good or chunks[:1]]
    if bad is not None:
        row["status"] = TRUNCATED if good else FAILED
        row |= {name: bad[name] for name in _CAUSE if name in bad}
    row |= join_frames(good)
    for name in row.keys() & set(_ADDED):
        row[name] = sum(chunk[name] or 0 for chunk in good)
    if "attempts" in row:
        row["attempts"] = max((chunk["attempts"] or 0 for chunk in chunks), default=0)
    if "decoder" in row:
        row["decoder"] = ", ".join(dict.fromkeys(chunk["decoder"] for chunk in good if chunk["decoder"])) or None
    for name in row.keys() & set(_DIGESTS):
        row[name] = _added(chunk[name] for chunk in good)
    return row


def _good_prefix(chunks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    prefix = []
    for chunk in chunks:
        if chunk["status"] == FAILED:
            break
        prefix.append(chunk)
        if chunk["status"] == TRUNCATED:
            break
    return prefix


def _added(digests: Iterable[str | None]) -> str | None:
    present = [digest for digest in digests if digest is not None]
    return add_digests(present) if present else None
