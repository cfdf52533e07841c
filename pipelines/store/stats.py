"""A store in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.commits import Commits
from pipelines.store.schema import FAILED, OK, TRUNCATED


@dataclass(frozen=True)
class StoreStats:
    """What a store holds.

    Args:
        statuses: sources by status.
        errors: failed sources by class of error.
        sampled, kept, stored: frames of all sources; stored ones have features.
        video_s: length of all sources together, as far as it is known.
        units: finished units; ``own_commits`` of them are not compacted, the others are in ``compactions`` files.
        frames_bytes, videos_bytes: size of the two tables, compressed.
        seconds: busy time by stage, over all units.
        runs: runs that finished a unit.
    """

    statuses: dict[str, int]
    errors: dict[str, int]
    sampled: int
    kept: int
    stored: int
    video_s: float
    units: int
    own_commits: int
    compactions: int
    frames_bytes: int
    videos_bytes: int
    seconds: dict[str, float]
    runs: int


def store_stats(index: pa.Table, commits: Commits) -> StoreStats:
    """Sum up.

    Args:
        index: the videos table, without values per frame.
    """
    statuses = Counter(index["status"].to_pylist())
    failed = index.filter(pc.equal(index["status"], FAILED))
    records = commits.table
    compacted = [size for each in commits.compactions for size in (each.videos.size_bytes, each.index.size_bytes)]
    return StoreStats(
        statuses={status: statuses[status] for status in (OK, TRUNCATED, FAILED)},
        errors=dict(Counter(failed["error"].to_pylist())),
        sampled=_sum(index["num_sampled"]),
        kept=_sum(index["num_kept"]),
        stored=_sum(index["num_stored"]),
        video_s=pc.sum(index["duration_s"]).as_py() or 0.0,
        units=len(commits),
        own_commits=len(commits.own),
        compactions=len(commits.compactions),
        frames_bytes=_sum(pc.struct_field(records["frames"], "size_bytes")),
        videos_bytes=sum(commit.videos.size_bytes for commit in commits.own.values()) + sum(compacted),
        seconds=_sums(records["seconds"].combine_chunks()),
        runs=len(pc.unique(records["run_id"])),
    )


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0


def _sums(values: pa.MapArray) -> dict[str, float]:
    """Totals by key."""
    table = pa.table({"stage": values.keys, "seconds": values.items})
    totals = table.group_by("stage", use_threads=False).aggregate([("seconds", "sum")]).to_pylist()
    return {total["stage"]: total["seconds_sum"] for total in totals}
