"""Feature store: what videos look like to DINOv2 (and SigLIP), as plain Parquet and JSON.

    <store>/store.json                        format version, configuration, tower and preprocessing digests
            plan/<run>.parquet                units that a run added
            frames/<unit>-<attempt>.parquet   one row per sampled frame
            videos/<unit>-<attempt>.parquet   one row per source (per chunk of a long one)
            commits/<unit>.json               the files of a finished unit, with their hashes

A unit is finished by the one atomic write of its commit. Readers see only files that a commit names, so work that
was killed leaves nothing behind but files nobody looks at.
"""

from pipelines.store.commits import Commit, committed_units, read_commits
from pipelines.store.features import FeatureSpec
from pipelines.store.manifest import StoreError, StoreManifest
from pipelines.store.reader import FeatureStore, VideoFeatures
from pipelines.store.schema import StageColumns
from pipelines.store.writer import commit_unit

__all__ = [
    "Commit",
    "FeatureSpec",
    "FeatureStore",
    "StageColumns",
    "StoreError",
    "StoreManifest",
    "VideoFeatures",
    "commit_unit",
    "committed_units",
    "read_commits",
]
