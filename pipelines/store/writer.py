"""Write one unit: frames, then videos, then the commit that makes both visible."""

from __future__ import annotations

import datetime
import importlib.metadata
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store.commits import Commit, StoredFile, write_commit
from pipelines.store.manifest import StoreError
from pipelines.store.schema import FAILED, OK, ROWS_PER_GROUP, TRUNCATED

FRAMES_FOLDER = "frames"
VIDEOS_FOLDER = "videos"
GRACE_S = 24 * 3600.0
"""How old a file is before a sweep takes it for an orphan."""

# Higher levels take longer and save nothing: the low bytes are noise (measured on float16 normals: 0.846 at 1 and 3).
_ZSTD_LEVEL = 1
# Minimum and maximum are kept for what readers filter by; of a feature they would be as large as the feature.
_STATISTICS = ["video_id", "frame_index", "pts_s", "window", "similarity", "source", "status"]


def commit_unit(
    store: str,
    unit_id: str,
    frames: pa.Table,
    videos: pa.Table,
    *,
    run_id: str,
    seconds: Mapping[str, float] | None = None,
) -> Commit:
    """Store one unit's rows.

    Args:
        frames: rows of the store's frames schema, one video's rows together and in order.
        videos: rows of the videos schema, one per source.
        run_id: run that did the work.
        seconds: busy time by stage.

    Returns:
        the commit, already written.
    """
    attempt = f"{unit_id}-{secrets.token_hex(4)}"
    began_s = time.time()
    frames_file = write_table(store, f"{FRAMES_FOLDER}/{attempt}.parquet", _groups(frames))
    videos_file = write_table(store, f"{VIDEOS_FOLDER}/{attempt}.parquet", [videos])
    statuses = Counter(videos["status"].to_pylist())
    commit = Commit(
        unit_id=unit_id,
        frames=frames_file,
        videos=videos_file,
        video_ids=tuple(videos["video_id"].to_pylist()),
        counts={status: statuses[status] for status in (OK, TRUNCATED, FAILED)}
        | {name: pc.sum(videos[f"num_{name}"]).as_py() or 0 for name in ("sampled", "kept", "stored")},
        errors=dict(Counter(videos.filter(pc.equal(videos["status"], FAILED))["error"].to_pylist())),
        seconds={stage: round(spent, 6) for stage, spent in (seconds or {}).items()},
        run_id=run_id,
        code_version=code_version(),
        committed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    check_not_too_late(store, began_s)
    write_commit(store, commit)
    return commit


def check_not_too_late(store: str, began_s: float) -> None:
    """Files that nothing names yet are swept after a grace time, so their commit must follow well before that.

    Args:
        began_s: when the first of them was begun, epoch seconds.

    Raises:
        StoreError: this process stood still for hours in between.
    """
    elapsed_s = time.time() - began_s
    if elapsed_s > GRACE_S / 2:
        raise StoreError(
            f"{storage.shown(store)}: {elapsed_s / 3600:.1f} h passed between writing and committing, so that a sweep "
            f"may have taken the files; run the same command again"
        )


def code_version() -> str:
    """Version of this project, or ``unknown`` when it runs from a checkout that was never installed."""
    try:
        return importlib.metadata.version("longvu-ray")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _groups(frames: pa.Table) -> list[pa.Table]:
    """Row groups hold one video each, so that reading a video reads nothing else."""
    runs = pc.run_end_encode(frames["video_id"].combine_chunks())
    ends = runs.run_ends.to_pylist()
    return [frames.slice(start, end - start) for start, end in pairwise([0, *ends])] or [frames]


def write_table(store: str, path: str, tables: list[pa.Table], *, rows_per_group: int = ROWS_PER_GROUP) -> StoredFile:
    """Write tables of one schema to one file; no row group holds rows of two of them."""
    schema = tables[0].schema
    with storage.HashingOutput(storage.join(store, path)) as output:
        with pq.ParquetWriter(
            output,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=[name for name in ("video_id", "source") if name in schema.names],
            write_statistics=[name for name in _STATISTICS if name in schema.names],
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=rows_per_group)
        rows = sum(table.num_rows for table in tables)
    return StoredFile(path, output.sha256, output.size_bytes, rows)
