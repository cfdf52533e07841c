"""What MLflow gets to know: every step once, and only steps that will not be done again.

A step's measurements wait in the checkpoint that covers it, and go to MLflow when that counts. So a run that is killed
and does some steps again records them once, whatever the moment of the kill: after a restart the last checkpoint's
records are given again, and the run leaves out what it has.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.tracking import CHECKPOINT_TAG, RunIdentity, TrackedRun
from pipelines.train.checkpoint import Checkpoint, Progress
from pipelines.train.run import Run


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
        if self._tracked is None:
            return None
        self._tracked.__exit__(type(error) if error else None, error, None)
        return self._tracked.place

    def _opened(self) -> TrackedRun:
        if self._tracked is None:
            config = self._run.config
            identity = RunIdentity("train", f"train {config.name}", self._run.uri)
            self._tracked = TrackedRun(Path(config.workdir), identity)
            self._tracked.params(config.flat())
            self._tracked.tags({"longvu.config_digest": config.digest(), "longvu.plan_digest": self._run.plan_digest})
            if config.data.store:
                self._tracked.tags({"longvu.store": config.data.store})
            if self._again is not None:
                self.add(self._again)
        return self._tracked
