"""What a store holds, told apart from who wrote it when: rows by identity, and what differs between two stores.

Frames are counted in the files that commits name, with plain Parquet reads, so that a row which is there twice is seen
however readers would hide it.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.store import FeatureStore

# Where the source lay, who did the work and how often it was tried may differ between two runs that come to the same.
_CIRCUMSTANCES = frozenset({"source", "version", "message", "units", "attempts", "log_tail"})


@dataclass(frozen=True)
class Content:
    """Digests of rows.

    Args:
        videos: by the source's file name.
        frames: by video and position in it.
        repeated: rows of frames files beyond the first of the same video and position.
    """

    videos: Mapping[Hashable, str]
    frames: Mapping[Hashable, str]
    repeated: int

    @property
    def digest(self) -> str:
        """One value for all of it, for people to compare."""
        rows = sorted(f"{key}{row}" for part in (self.videos, self.frames) for key, row in part.items())
        return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Difference:
    """How many rows a store lacks, has twice, has differently or has beyond those expected."""

    lost: int
    duplicated: int
    changed: int
    added: int

    def __bool__(self) -> bool:
        return any((self.lost, self.duplicated, self.changed, self.added))


def read_content(uri: str) -> Content:
    """Everything in a store; each committed file is also compared with its hash.

    Raises:
        AssertionError: the store does not verify.
    """
    store = FeatureStore.open(uri)
    problems = store.verify().problems
    assert not problems, problems
    videos = {posixpath.basename(row["source"]): _digest(row) for row in store.videos().to_pylist()}
    frames: dict[Hashable, str] = {}
    seen: Counter[Hashable] = Counter()
    for commit in store.commits.values():
        for row in pq.read_table(storage.arrow_input(storage.join(store.uri, commit.frames.path))).to_pylist():
            key = (row["video_id"], row["frame_index"])
            seen[key] += 1
            frames[key] = _digest(row)
    return Content(videos, frames, seen.total() - len(seen))


def difference(found: Content, expected: Content) -> Difference:
    """Rows of both tables together."""
    pairs = [(found.videos, expected.videos), (found.frames, expected.frames)]
    return Difference(
        lost=sum(len(right.keys() - left.keys()) for left, right in pairs),
        duplicated=found.repeated,
        changed=sum(left[key] != right[key] for left, right in pairs for key in left.keys() & right.keys()),
        added=sum(len(left.keys() - right.keys()) for left, right in pairs),
    )


def _digest(row: dict[str, Any]) -> str:
    told = {name: value for name, value in row.items() if name not in _CIRCUMSTANCES}
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()
