"""Feature store: what videos look like to a model's towers, as plain Parquet and JSON.

    <store>/store.json                        format version, configuration, tower and preprocessing digests
            plan/<run>.parquet                units that a run added
            frames/<unit>-<attempt>.parquet   one row per sampled frame
            videos/<unit>-<attempt>.parquet   one row per source (per chunk of a long one)
            commits/<unit>.json               the files of a finished unit, with their hashes
            commits/compacted-<n>-<random>.parquet          the same of many units, and in
            videos/compacted-<n>-<random>[.index].parquet   their rows of the videos table

A unit is finished by the one atomic write of its commit. Readers see only files that a commit names, so work that
was killed leaves nothing behind but files nobody looks at, which a sweep deletes.
"""

from pipelines.store.commits import Commit, Commits, committed_units, read_commits
from pipelines.store.compaction import CompactionResult, compact
from pipelines.store.features import FeatureSpec
from pipelines.store.manifest import StoreError, StoreManifest
from pipelines.store.reader import FeatureStore, VideoFeatures
from pipelines.store.schema import StageColumns
from pipelines.store.stats import StoreStats
from pipelines.store.sweep import sweep
from pipelines.store.verification import Verification
from pipelines.store.writer import commit_unit

__all__ = [
    "Commit",
    "Commits",
    "CompactionResult",
    "FeatureSpec",
    "FeatureStore",
    "StageColumns",
    "StoreError",
    "StoreManifest",
    "StoreStats",
    "Verification",
    "VideoFeatures",
    "commit_unit",
    "committed_units",
    "compact",
    "read_commits",
    "sweep",
]
