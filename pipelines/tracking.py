"""MLflow runs: one per stage and output, continued after a restart, linked to the runs it builds on.

The default server is ``sqlite:///<workdir>/mlflow.db``; ``MLFLOW_TRACKING_URI`` overrides it. A server that cannot be
reached never stops a job: a record is retried, then appended to ``<workdir>/mlflow-spool/<key>.jsonl``, and the next
run in the same workdir delivers what is there. This is the only file that imports mlflow, and only when a run is
opened, because the import takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

EXPERIMENT = "longvu"
KEY_TAG = "longvu.key"
STAGE_TAG = "longvu.stage"
LINK_TAG = "longvu.link."
CHECKPOINT_TAG = "longvu.checkpoint"

# After a failed delivery, records go straight to the spool for this long: a dead server must not slow the job.
_RETRY_AFTER_S = 60.0
_MAX_PARAM_LENGTH = 6000
_MOST_METRICS = 1000
# The last value that MLflow keeps of this metric says how far a run's steps are recorded.
_STEP_METRIC = "step"


@dataclass(frozen=True)
class RunIdentity:
    """What makes a restarted job find its run again.

    Args:
        stage: extract, train, evaluate or serve.
        name: shown in MLflow's list.
        key: the output this run makes; the same key is the same run.
    """

    stage: str
    name: str
    key: str


def tracking_uri(workdir: Path) -> str:
    """Where runs of this workdir are recorded."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir.resolve() / 'mlflow.db'}"


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

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record measurements; ``step`` counts whatever the stage counts (units, optimizer steps)."""
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

    def link(self, stage: str, run_id: str) -> None:
        """Name the run of an earlier stage that this one builds on."""
        self.tags({LINK_TAG + stage: run_id})

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
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        identity = RunIdentity(line["stage"], line["name"], line["key"])
        try:
            if self._client is None:
                self._client = _client(self.uri)
            if identity not in self._run_ids:
                self._run_ids[identity] = _find_run(self._client, identity, self._artifacts)
            _apply(self._client, self._run_ids[identity], line["operation"], line["values"])
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self.last_problem = str(error).splitlines()[0][:200]
            self._silent_until_s = time.monotonic() + _RETRY_AFTER_S
            return False
        self.run_id = self._run_ids.get(self._identity)
        self.last_problem = None
        return True


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


def _client(uri: str) -> Any:
    # A hung server costs seconds here, not mlflow's default of many minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _find_run(client: Any, identity: RunIdentity, artifacts: str | None) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT, artifacts)
    digest = hashlib.blake2b(identity.key.encode(), digest_size=16).hexdigest()
    wanted = f"tags.`{KEY_TAG}` = '{digest}' and tags.`{STAGE_TAG}` = '{identity.stage}'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    if not found:
        tags = {KEY_TAG: digest, STAGE_TAG: identity.stage, "longvu.output": identity.key}
        found = [client.create_run(experiment_id, run_name=identity.name, tags=tags)]
    return str(found[0].info.run_id)


def _apply(client: Any, run_id: str, operation: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    if operation == "open":
        client.update_run(run_id, status="RUNNING")
    elif operation == "params":
        known = client.get_run(run_id).data.params
        changed = {f"restarted.{name}": new for name, new in values.items() if known.get(name, new) != new}
        fresh = [Param(name, value) for name, value in values.items() if name not in known]
        client.log_batch(run_id, params=fresh, tags=[RunTag(name, value) for name, value in changed.items()])
    elif operation == "metrics":
        measured = [
            Metric(name, float(value), values["time_ms"], values["step"]) for name, value in values["values"].items()
        ]
        client.log_batch(run_id, metrics=measured)
    elif operation == "steps":
        _add_steps(client, run_id, values)
    elif operation == "tags":
        client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])
    else:
        client.set_terminated(run_id, status=values["status"])


def _add_steps(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    """A step's metrics are in one batch, which the server takes as a whole or not at all."""
    from mlflow.entities import Metric

    rows = values["rows"]
    run = client.get_run(run_id)
    model_id = _logged_model(client, run, values["checkpoint"], rows[-1][0]) if "checkpoint" in values else None
    last = run.data.metrics.get(_STEP_METRIC, -math.inf)
    batch: list[Any] = []
    for step, measured in rows:
        if step <= last:
            continue
        owner = model_id if step == rows[-1][0] else None
        metrics = [
            Metric(name, float(value), values["time_ms"], step, model_id=owner)
            for name, value in {_STEP_METRIC: step, **measured}.items()
        ]
        if len(batch) + len(metrics) > _MOST_METRICS:
            client.log_batch(run_id, metrics=batch)
            batch = []
        batch += metrics
    if batch:
        client.log_batch(run_id, metrics=batch)


def _logged_model(client: Any, run: Any, checkpoint: str, step: int) -> str:
    """The id of a checkpoint's LoggedModel, which is made if there is none yet."""
    from mlflow.entities import LoggedModelOutput

    experiment, run_id = run.info.experiment_id, run.info.run_id
    name = "".join(letter if letter not in "/:.%\"'" else "-" for letter in f"{run.info.run_name} step {step}")
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'"):
        if found.tags.get(CHECKPOINT_TAG) == checkpoint:
            return str(found.model_id)
    tags = {CHECKPOINT_TAG: checkpoint, "longvu.step": str(step)}
    model_id = client.create_logged_model(experiment, name, run_id, tags=tags).model_id
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    return str(model_id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
