"""Write one unit: frames, then videos, then the commit that makes both visible."""

from __future__ import annotations

import datetime
import importlib.metadata
import secrets
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store.commits import Commit, StoredFile, write_commit
from pipelines.store.schema import FAILED, OK, ROWS_PER_GROUP, TRUNCATED

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
    frames_file = _write(store, f"frames/{attempt}.parquet", _groups(frames))
    videos_file = _write(store, f"videos/{attempt}.parquet", [videos])
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
    write_commit(store, commit)
    return commit


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


def _write(store: str, path: str, tables: list[pa.Table]) -> StoredFile:
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
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        rows = sum(table.num_rows for table in tables)
    return StoredFile(path, output.sha256, output.size_bytes, rows)
