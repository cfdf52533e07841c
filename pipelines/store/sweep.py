"""Sweep: the files that nobody will ever read again.

Work that was killed leaves files that no commit names, and compaction replaces files that those who opened the store
before still read. Both are orphans after a grace time, in which an attempt must have committed and a reader must have
opened the store again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pipelines import storage
from pipelines.storage import MISSING, StoredObject
from pipelines.store.commits import COMPACTED, FOLDER, Commits, compaction_files, read_commits
from pipelines.store.writer import FRAMES_FOLDER, GRACE_S, VIDEOS_FOLDER

_REMOVERS = 32
_TABLES = (FRAMES_FOLDER, VIDEOS_FOLDER)
_FOLDERS = ("", FOLDER, *_TABLES, "plan")


def sweep(store: str, *, grace_s: float = GRACE_S, delete: bool = False) -> list[StoredObject]:
    """Find orphans, and delete them if asked to.

    Args:
        grace_s: age from which on a file that nothing names is an orphan, seconds. With less than the default, no
            extraction, compaction or reader may be running.

    Returns:
        the orphans, in the order of their names.
    """
    now_s = time.time()
    # Listed before the commits are read: what is committed in between is named.
    tables = [item for folder in _TABLES for item in storage.listing(storage.join(store, folder))]
    partial = [item for folder in _FOLDERS for item in storage.listing(storage.join(store, folder), prefix=".")]
    compactions = compaction_files(store)
    commits = read_commits(store)
    candidates = [*partial, *_unnamed(tables, compactions, commits, now_s - grace_s)]
    orphans = [item for item in candidates if item.version != MISSING and item.modified_s < now_s - grace_s]
    if delete:
        with ThreadPoolExecutor(_REMOVERS) as removers:
            list(removers.map(lambda item: storage.remove(item.uri), orphans))
    return sorted(orphans, key=lambda item: item.uri)


def _unnamed(
    tables: list[StoredObject], compactions: dict[str, StoredObject], commits: Commits, before_s: float
) -> Iterator[StoredObject]:
    """Files of the two tables that no commit names, and superseded compactions."""
    live = {compaction.name for compaction in commits.compactions}
    named = {compaction.index.path for compaction in commits.compactions}
    for column in ("frames", "videos"):
        named.update(commits.table[column].combine_chunks().field("path").to_pylist())
    # A compaction makes orphans of files that are old already, so it is its own age that counts for them.
    settled = all(name in compactions and compactions[name].modified_s < before_s for name in live)
    if settled:
        yield from (item for name, item in compactions.items() if name not in live)
    for item in tables:
        folder, name = item.uri.split("/")[-2:]
        unit = name.rpartition("-")[0]
        replaced = name.startswith(COMPACTED) or unit in commits
        if f"{folder}/{name}" not in named and (settled or not replaced):
            yield item
