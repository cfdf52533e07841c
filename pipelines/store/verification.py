"""Whether a store's files are what its commits say, and agree with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store.commits import Commits, StoredFile
from pipelines.store.features import add_digests, content_digest, decode, raw_bytes
from pipelines.store.manifest import StoreManifest
from pipelines.store.schema import VIDEOS

_READERS = 16
_COUNTED = (
    *("unit_id", "source", "video_id", "num_sampled", "num_kept", "num_stored"),
    *(name for name in VIDEOS.names if name.endswith("_digest")),
)


@dataclass(frozen=True)
class Verification:
    """What was checked and what is wrong, one line each."""

    files: int
    size_bytes: int
    problems: tuple[str, ...]


def verify(store: str, manifest: StoreManifest, commits: Commits, *, deep: bool = False) -> Verification:
    """Read every file that a commit names.

    Args:
        deep: also decode every feature and compare it with its digest in the videos row.
    """
    files = {file.path: file for file in _named(commits)}
    with ThreadPoolExecutor(_READERS) as readers:
        found = zip(files, readers.map(lambda file: _damage(store, file), files.values()), strict=True)
        damage = {path: problem for path, problem in found if problem}
        rows = _rows_of_units(store, commits, damage)
        sound = [unit for unit in commits if unit in rows and commits[unit].frames.path not in damage]
        problems = readers.map(lambda unit: _unit_problems(store, manifest, commits, unit, rows[unit], deep), sound)
        disagreements = [problem for found in problems for problem in found]
    size_bytes = sum(file.size_bytes for file in files.values())
    return Verification(len(files), size_bytes, (*damage.values(), *disagreements))


def _named(commits: Commits) -> Iterator[StoredFile]:
    for unit in commits:
        yield commits[unit].frames
        if unit in commits.own:
            yield commits[unit].videos
    for compaction in commits.compactions:
        yield compaction.videos
        yield compaction.index


def _damage(store: str, file: StoredFile) -> str | None:
    uri = storage.join(store, file.path)
    try:
        found = storage.stat(uri)
        if found.size_bytes != file.size_bytes:
            return f"{file.path}: {found.size_bytes} bytes, committed were {file.size_bytes}"
        if storage.sha256(uri) != file.sha256:
            return f"{file.path}: content differs from the committed SHA-256"
        rows = pq.read_metadata(storage.arrow_input(uri)).num_rows
    except FileNotFoundError:
        return f"{file.path}: committed but missing"
    except pa.ArrowException as error:
        return f"{file.path}: is no Parquet file ({error})"
    return None if rows == file.rows else f"{file.path}: {rows} rows, committed were {file.rows}"


def _rows_of_units(store: str, commits: Commits, damage: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Videos rows by unit, of the files that are sound."""
    wanted = {commit.videos.path for commit in commits.own.values()}
    wanted |= {compaction.index.path for compaction in commits.compactions}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def read(path: str) -> tuple[str, list[dict[str, Any]]]:
        uri = storage.join(store, path)
        return path, pq.ParquetFile(storage.arrow_input(uri)).read(list(_COUNTED), use_threads=False).to_pylist()

    with ThreadPoolExecutor(_READERS) as readers:
        for path, found in readers.map(read, sorted(wanted - damage.keys())):
            for row in found:
                compaction = commits.compacted_in(row["unit_id"])
                if path == (compaction.index.path if compaction else commits[row["unit_id"]].videos.path):
                    rows[row["unit_id"]].append(row)
    return rows


def _unit_problems(
    store: str, manifest: StoreManifest, commits: Commits, unit: str, rows: list[dict[str, Any]], deep: bool
) -> list[str]:
    """How the frames rows of a unit disagree with its videos rows."""
    commit = commits[unit]
    problems = []
    if sorted(map(str, commit.video_ids)) != sorted(str(row["video_id"]) for row in rows):
        problems.append(f"{unit}: videos rows of {len(rows)} sources, committed were {len(commit.video_ids)}")
    found = _counts(store, manifest, commit.frames.path, deep)
    # Copies of a video in one unit have a videos row each, but frames rows only once.
    described = {row["video_id"]: row for row in reversed(rows) if row["num_sampled"]}
    for video_id in sorted(found.keys() | described.keys()):
        row = described.get(video_id, {})
        for name, count in found.get(video_id, {"num_sampled": 0}).items():
            if count != row.get(name):
                what = f"{name} {count}, its videos row has {row.get(name)}"
                problems.append(f"{commit.frames.path}: video {video_id[:12]} has {what}")
    return problems


def _counts(store: str, manifest: StoreManifest, path: str, deep: bool) -> dict[str, dict[str, Any]]:
    """By video, what a frames file holds of it, under the names of the videos table's columns."""
    features = manifest.features if deep else ()
    columns = ["video_id", "frame_index", "kept", *(spec.name for spec in features)]
    totals: dict[str, dict[str, Any]] = {}
    file = pq.ParquetFile(storage.arrow_input(storage.join(store, path)))
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns, use_threads=False)
        if not len(rows):
            continue
        counts = {"num_sampled": len(rows)} | ({"num_kept": pc.sum(rows["kept"]).as_py()} if manifest.selects else {})
        total = totals.setdefault(rows["video_id"][0].as_py(), dict.fromkeys(counts, 0))
        total |= {name: total[name] + count for name, count in counts.items()}
        for spec in features:
            stored = rows.filter(pc.is_valid(rows[spec.name]))
            raw_FB = raw_bytes(decode(stored[spec.name], spec))
            digest = content_digest(raw_FB, stored["frame_index"].to_numpy().astype(np.int64))
            name = f"{spec.name}_digest"
            total["num_stored"] = total.get("num_stored", 0) + (len(stored) if spec is features[0] else 0)
            total[name] = add_digests([total.get(name, "0"), digest])
    return totals
