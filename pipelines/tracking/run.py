"""The writing side: a run of MLflow, and what happens to its records when the server is away.

A record that cannot be delivered is appended to ``<workdir>/mlflow-spool/<key>.jsonl``; the next run in the same
workdir delivers what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.tracking import delivery
from pipelines.tracking.records import DESCRIPTION_TAG, LINK_TAG, DatasetInput, RunIdentity, ServedAnswer
from pipelines.tracking.server import connected, tracking_uri, unreachable

# After a failed delivery, records go straight to the spool for this long: a dead server must not slow the job.
_RETRY_AFTER_S = 60.0
_MAX_PARAM_LENGTH = 6000


class TrackedRun:
    """An open MLflow run; use it as a context manager, and its status says how the block ended."""

    def __init__(self, workdir: Path, identity: RunIdentity):
        self.uri = tracking_uri(workdir)
        self.run_id: str | None = None
        self.last_problem: str | None = None
        self._identity = identity
        self._spool_folder = workdir / "mlflow-spool"
        self._silent_until_s = 0.0
        self._client: Any = None
        self._run_ids: dict[RunIdentity, str] = {}
        self._artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else str(workdir.resolve() / "mlflow-artifacts")
        workdir.mkdir(parents=True, exist_ok=True)
        with _alone(workdir):
            self._deliver_spools()
            self._record("open", {})

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the configuration. A restart with other values keeps the first ones and tags ``restarted.<name>``."""
        self._record("params", {name: str(value)[:_MAX_PARAM_LENGTH] for name, value in values.items()})

    def describe(self, markdown: str) -> None:
        """Say on top of the run's page what it is, or what came of it; replaces what was said before."""
        self.tags({DESCRIPTION_TAG: markdown})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record measurements; ``step`` counts whatever the stage counts (units, optimizer steps).

        MLflow puts names that agree before a slash (``loss/image``, ``loss/video``) under one heading.
        """
        self._record("metrics", {"values": dict(values), "step": step, "time_ms": _now_ms()})

    def steps(self, rows: Sequence[tuple[int, Mapping[str, float]]], checkpoint: str | None = None) -> None:
        """Record the measurements of many steps in rising order, each step once.

        Steps up to the last one that the run has are left out, so a restarted job may repeat what it is not sure of.

        Args:
            checkpoint: URI of the checkpoint that holds the last of these steps. It becomes a LoggedModel with that
                step's measurements; its files stay where they are.
        """
        values = {"rows": [[step, dict(values)] for step, values in rows], "time_ms": _now_ms()}
        self._record("steps", values | ({"checkpoint": checkpoint} if checkpoint and rows else {}))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record facts that are no measurements: digests, paths, versions."""
        self._record("tags", dict(values))

    def inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Record what this run reads: sources, annotations, stores, benchmarks."""
        self._record("inputs", {"datasets": [asdict(dataset) for dataset in datasets]})

    def uses_model(self, role: str, checkpoint: str, digest: str) -> None:
        """Make a checkpoint's LoggedModel an input of this run.

        Args:
            role: what for: init, evaluated, or the name that requests call it.
            checkpoint: URI of the training checkpoint, or what names a model that was not trained here. The
                LoggedModel is the one that training made; other models get one. Files stay where they are.
            digest: of the content that is used; another content of a model not trained here is another model.
        """
        self._record("uses_model", {"role": role, "model": checkpoint, "digest": digest})

    def answers(self, answers: Sequence[ServedAnswer]) -> bool:
        """Leave a trace of each answer under its model. They are samples: what cannot be delivered is not kept.

        Returns:
            Whether the server was there.
        """
        if time.monotonic() < self._silent_until_s or self.run_id is None or self._client is None:
            return False
        try:
            delivery.trace(self._client, self.uri, self.run_id, answers)
        except unreachable() as error:
            self._lost(error)
            return False
        return True

    def link(self, stage: str, run_id: str) -> None:
        """Name the run of an earlier stage that this one builds on."""
        self.tags({LINK_TAG + stage: run_id})

    def link_output(self, stage: str, key: str) -> None:
        """As :meth:`link`, by the output that the earlier run made; nothing happens if this server knows none."""
        self._record("link", {"stage": stage, "key": key})

    def evaluated(self, model: str, digest: str, values: Mapping[str, float]) -> None:
        """Record final scores, here and on the model's page; ``model`` and ``digest`` as in :meth:`uses_model`.

        They have step 0: MLflow draws these as bars, a run beside the other, and anything else as a point on a line.
        """
        self._record("evaluated", {"model": model, "digest": digest, "values": dict(values), "time_ms": _now_ms()})

    def artifacts(self, files: Mapping[str, str]) -> None:
        """Copy small files to the run, each from its URI, under its name."""
        self._record("artifacts", dict(files))

    @property
    def place(self) -> str:
        """One line for the summary: where the run is, or where its records wait."""
        if self.last_problem is None:
            return f"{self.uri} run {self.run_id}"
        return f"{self.uri} could not be reached ({self.last_problem}); records wait in {self._spool}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        killed = kind is not None and not issubclass(kind, Exception)
        self._silent_until_s = 0.0
        self._deliver_spools()
        self._record("end", {"status": "FINISHED" if kind is None else "KILLED" if killed else "FAILED"})

    @property
    def _spool(self) -> Path:
        return self._spool_folder / f"{hashlib.blake2b(self._identity.key.encode(), digest_size=8).hexdigest()}.jsonl"

    def _record(self, operation: str, values: Mapping[str, Any]) -> None:
        line = {**asdict(self._identity), "operation": operation, "values": values}
        if time.monotonic() < self._silent_until_s or not self._try(line):
            self._spool_folder.mkdir(parents=True, exist_ok=True)
            with self._spool.open("a", encoding="utf-8") as spool:
                spool.write(json.dumps(line) + "\n")

    def _deliver_spools(self) -> None:
        for spool in sorted(self._spool_folder.glob("*.jsonl")):
            lines = list(_parsed(spool.read_text(encoding="utf-8")))
            delivered = 0
            for line in lines:
                if not self._try(line):
                    break
                delivered += 1
            if delivered < len(lines):
                spool.write_text("".join(json.dumps(line) + "\n" for line in lines[delivered:]), encoding="utf-8")
                return
            spool.unlink()

    def _try(self, line: Mapping[str, Any]) -> bool:
        identity = RunIdentity(line["stage"], line["name"], line["key"])
        try:
            if self._client is None:
                self._client = connected(self.uri)
            if identity not in self._run_ids:
                self._run_ids[identity] = delivery.find_run(self._client, identity, self._artifacts)
            delivery.apply(self._client, self._run_ids[identity], line["operation"], line["values"])
        except unreachable() as error:
            self._lost(error)
            return False
        self.run_id = self._run_ids.get(self._identity)
        self.last_problem = None
        return True

    def _lost(self, error: BaseException) -> None:
        self.last_problem = str(error).splitlines()[0][:200]
        self._silent_until_s = time.monotonic() + _RETRY_AFTER_S


def _parsed(spooled: str) -> Iterator[dict[str, Any]]:
    for line in spooled.splitlines():
        # A job killed while it appended leaves half a line.
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Jobs that begin at the same time take turns: MLflow fails when two make one database, and spools go once."""
    with (workdir / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
