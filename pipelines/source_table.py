"""``sources.parquet``: which sources a run read, with the digest of each. Lineage ends in these tables.

A run leaves its table beside what it makes, and a copy of it in MLflow, where it outlives both store and sources.
"""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.tracking import DatasetInput, TrackedRun

NAME = "sources.parquet"
ROLE = "sources"
ONLINE = "online"
"""Status of a source that was decoded while training, past any feature store."""

SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), metadata={"about": "uri"}),
        pa.field("version", pa.string(), metadata={"about": "etag or modification time; null: not looked at"}),
        pa.field("video_id", pa.string(), metadata={"about": "sha256 of the bytes; null where they were never hashed"}),
        pa.field("status", pa.string(), metadata={"about": "ok, truncated, failed, or online: not from a store"}),
    ]
)
_DIGEST = b"longvu.digest"


def table_digest(table: pa.Table) -> str:
    """32 hex digits over the rows, whatever their order."""
    state = hashlib.blake2b(digest_size=16)
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    for row in sorted("\0".join(value or "" for value in values) for values in zip(*columns, strict=True)):
        state.update(row.encode() + b"\n")
    return state.hexdigest()


def record_sources(run: TrackedRun, folder: str, table: pa.Table, name: str, origin: str) -> None:
    """Write the table into the folder of what the run makes, and make it known to MLflow.

    Args:
        folder: URI.
        table: of :data:`SCHEMA`.
        name: of the data, for people.
        origin: where the sources were looked for.
    """
    digest, uri = table_digest(table), storage.join(folder, NAME)
    output = io.BytesIO()
    pq.write_table(table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata({_DIGEST: digest}), output)
    storage.write_bytes(uri, output.getvalue())
    run.artifacts({NAME: uri})
    run.inputs([DatasetInput(ROLE, name, digest, origin, {"num_sources": table.num_rows})])
    run.tags({"longvu.sources_digest": digest})


def is_recorded(folder: str, table: pa.Table) -> bool:
    """Whether :func:`record_sources` was called for these rows before."""
    uri = storage.join(folder, NAME)
    if not storage.exists(uri):
        return False
    with storage.arrow_input(uri) as file:
        metadata = pq.read_schema(file).metadata or {}
    return bool(metadata.get(_DIGEST, b"").decode() == table_digest(table))


def read_sources(data: bytes) -> pa.Table:
    """The table from the bytes of its file."""
    return pq.read_table(io.BytesIO(data))
