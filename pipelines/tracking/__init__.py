"""MLflow runs: one per stage and output, continued after a restart, linked to the runs it builds on.

The default server is ``sqlite:///<workdir>/mlflow.db``; ``MLFLOW_TRACKING_URI`` overrides it. A server that cannot be
reached never stops a job: a record is retried, then spooled. This package alone imports mlflow, and only when a run is
opened or read, because the import takes seconds.

A run names what it builds on: models by tags and LoggedModel inputs, data as dataset inputs, runs by tags. What
:mod:`pipelines.lineage` reads is what is recorded here.
"""

from pipelines.tracking.history import (
    History,
    ModelRecord,
    RunRecord,
    find_run,
    read_artifact,
    read_history,
    read_run,
    read_series,
)
from pipelines.tracking.records import (
    CHECKPOINT_TAG,
    EXPERIMENT,
    LINK_TAG,
    MODEL_DIGEST_TAG,
    MODEL_TAG,
    STAGE_TAG,
    DatasetInput,
    RunIdentity,
    ServedAnswer,
)
from pipelines.tracking.run import TrackedRun
from pipelines.tracking.server import tracking_uri

__all__ = [
    "CHECKPOINT_TAG",
    "EXPERIMENT",
    "LINK_TAG",
    "MODEL_DIGEST_TAG",
    "MODEL_TAG",
    "STAGE_TAG",
    "DatasetInput",
    "History",
    "ModelRecord",
    "RunIdentity",
    "RunRecord",
    "ServedAnswer",
    "TrackedRun",
    "find_run",
    "read_artifact",
    "read_history",
    "read_run",
    "read_series",
    "tracking_uri",
]
