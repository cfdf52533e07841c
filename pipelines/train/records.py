"""What MLflow gets to know: every step once, and only steps that will not be done again.

A step's measurements wait in the checkpoint that covers it, and go to MLflow when that counts. So a run that is killed
and does some steps again records them once, whatever the moment of the kill: after a restart the last checkpoint's
records are given again, and the run leaves out what it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.provenance import Provenance, checkpoint_uri
from pipelines.source_table import ONLINE, record_sources
from pipelines.source_table import SCHEMA as SOURCES
from pipelines.store import FeatureStore
from pipelines.store.schema import OK
from pipelines.tracking import CHECKPOINT_TAG, DatasetInput, RunIdentity, TrackedRun
from pipelines.train.checkpoint import Checkpoint, Progress
from pipelines.train.manifest import Manifest, open_manifest
from pipelines.train.run import Run
from pipelines.video_models.loading import checkpoint_digest


class Recorder:
    """The first rank's link to MLflow, opened by the first checkpoint: importing MLflow takes seconds.

    All methods but :meth:`repeat` and :meth:`close` run in the thread that writes checkpoints.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tracked: TrackedRun | None = None
        self._again: Checkpoint | None = None

    def repeat(self, newest: Checkpoint) -> None:
        """After a restart: the process that wrote this checkpoint may have ended before its records were given."""
        self._again = newest

    def named(self, progress: Progress) -> Progress:
        """The progress with the run's id, as far as MLflow could be reached."""
        return dataclasses.replace(progress, run_id=self._opened().run_id or progress.run_id)

    def add(self, done: Checkpoint) -> None:
        """Record the steps that a checkpoint made final, and the checkpoint as a LoggedModel."""
        progress, run = done.progress, self._opened()
        run.steps(progress.records, checkpoint=done.uri)
        events = {f"longvu.event.{progress.cursor:08d}.{n}": text for n, text in enumerate(progress.events)}
        run.tags({CHECKPOINT_TAG: done.uri, **events})

    def close(self, error: BaseException | None = None) -> str | None:
        """End the run; returns where it is, None if there was nothing to record."""
        if error is None and self._again is not None and self._again.progress.records:
            self._opened()
        if self._tracked is None:
            return None
        self._tracked.__exit__(type(error) if error else None, error, None)
        return self._tracked.place

    def _opened(self) -> TrackedRun:
        if self._tracked is None:
            config = self._run.config
            identity = RunIdentity.of_output("train", self._run.uri)
            self._tracked = TrackedRun(Path(config.workdir), identity)
            self._tracked.params(config.flat())
            self._tracked.describe(
                f"The {config.stage.name} stage from `{config.model}` on `{config.data.annotations}`, in "
                f"`{storage.shown(self._run.uri)}`. Checkpoints are under *Logged models*; "
                f"`longvu export CHECKPOINT FOLDER` makes a model of one."
            )
            self._tracked.tags({"longvu.config_digest": config.digest(), "longvu.plan_digest": self._run.plan_digest})
            _record_inputs(self._run, self._tracked)
            if self._again is not None:
                self.add(self._again)
        return self._tracked


def _record_inputs(run: Run, tracked: TrackedRun) -> None:
    """What the run builds on: the model it starts from, the store, the annotations and every medium that they show."""
    config, folder = run.config, Path(run.model_folder)
    tracked.uses_model("init", checkpoint_uri(folder), checkpoint_digest(folder))
    origin = Provenance.read(folder)
    if origin is not None and origin.mlflow_run is not None:
        tracked.link("train", origin.mlflow_run)
    files = {"annotations": (config.data.annotations, run.manifest), "heldout": (config.data.heldout, run.heldout)}
    manifests = {role: open_manifest(uri) for role, (_, uri) in files.items() if uri is not None}
    inputs = []
    for role, manifest in manifests.items():
        place = storage.resolve(str(files[role][0]))
        facts = {"num_samples": len(manifest), "num_quarantined": manifest.quarantine.num_rows}
        inputs.append(DatasetInput(role, place.rpartition("/")[2], manifest.digest, place, facts))
    if config.data.store:
        store = FeatureStore.open(config.data.store)
        inputs.append(DatasetInput("store", store.manifest.name, store.manifest.config_digest, store.uri))
        tracked.tags({"longvu.store": store.uri})
        tracked.link_output("extract", store.uri)
    tracked.inputs(inputs)
    record_sources(tracked, run.uri, _sources(manifests.values()), config.name, storage.resolve(config.data.media_root))


def _sources(manifests: Iterable[Manifest]) -> pa.Table:
    """Every medium once."""
    found: dict[str, str | None] = {}
    for manifest in manifests:
        media = pc.list_flatten(manifest.table["media"]).combine_chunks()
        for uri, video_id in zip(media.field("uri").to_pylist(), media.field("video_id").to_pylist(), strict=True):
            found[uri] = video_id or found.get(uri)
    rows = [{"source": uri, "video_id": digest, "status": OK if digest else ONLINE} for uri, digest in found.items()]
    return pa.Table.from_pylist(rows, SOURCES)
