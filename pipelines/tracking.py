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
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines import storage
from pipelines.errors import UserError

EXPERIMENT = "longvu"
KEY_TAG = "longvu.key"
STAGE_TAG = "longvu.stage"
LINK_TAG = "longvu.link."
CHECKPOINT_TAG = "longvu.checkpoint"
OUTPUT_TAG = "longvu.output"
DIGEST_TAG = "longvu.digest"

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


@dataclass(frozen=True)
class ServedAnswer:
    """An answer that an endpoint gave, as a trace keeps it.

    Args:
        model: as requests call it.
        checkpoint: its URI.
        digest: of its content.
        ended_s: when, in seconds since the epoch.
        took_s: seconds from the request to its last word.
        stages_s: seconds per stage.
        facts: counts and names about the request.
        question, answer: texts, None where they are not to be kept.
    """

    model: str
    checkpoint: str
    digest: str
    ended_s: float
    took_s: float
    stages_s: dict[str, float]
    facts: dict[str, Any]
    question: Any = None
    answer: str | None = None


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

    def served(self, checkpoint: str, digest: str) -> None:
        """Make a checkpoint's LoggedModel, see :meth:`evaluated`, an input of this run."""
        self._record("served", {"model": checkpoint, "digest": digest})

    def answers(self, answers: Sequence[ServedAnswer]) -> bool:
        """Leave a trace of each answer under its model. They are samples: what cannot be delivered is not kept.

        Returns:
            Whether the server was there.
        """
        if time.monotonic() < self._silent_until_s or self.run_id is None or self._client is None:
            return False
        try:
            _trace(self._client, self.uri, self.run_id, answers)
        except _unreachable() as error:
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
        """Record final scores, here and on the model's page.

        Args:
            model: URI of the checkpoint, or what names the model elsewhere. Its LoggedModel is the one that training
                made of the checkpoint; a model that was not trained here gets one. Its files stay where they are.
            digest: of its content; another content is another model.
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
                self._client = _client(self.uri)
            if identity not in self._run_ids:
                self._run_ids[identity] = _find_run(self._client, identity, self._artifacts)
            _apply(self._client, self._run_ids[identity], line["operation"], line["values"])
        except _unreachable() as error:
            self._lost(error)
            return False
        self.run_id = self._run_ids.get(self._identity)
        self.last_problem = None
        return True

    def _lost(self, error: BaseException) -> None:
        self.last_problem = str(error).splitlines()[0][:200]
        self._silent_until_s = time.monotonic() + _RETRY_AFTER_S


def _unreachable() -> tuple[type[Exception], ...]:
    """What says that the server did not take something."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


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
    found = _run_of(client, experiment_id, identity.stage, identity.key)
    if found is None:
        tags = {KEY_TAG: _key_digest(identity.key), STAGE_TAG: identity.stage, OUTPUT_TAG: identity.key}
        found = str(client.create_run(experiment_id, run_name=identity.name, tags=tags).info.run_id)
    return found


def _run_of(client: Any, experiment_id: str, stage: str, key: str) -> str | None:
    """The id of the run that makes this output."""
    wanted = f"tags.`{KEY_TAG}` = '{_key_digest(key)}' and tags.`{STAGE_TAG}` = '{stage}'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _key_digest(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


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
    elif operation == "link":
        experiment_id = client.get_run(run_id).info.experiment_id
        earlier = _run_of(client, experiment_id, values["stage"], values["key"])
        if earlier is not None:
            client.set_tag(run_id, LINK_TAG + values["stage"], earlier)
    elif operation == "evaluated":
        _add_scores(client, run_id, values)
    elif operation == "artifacts":
        _add_artifacts(client, run_id, values)
    elif operation == "tags":
        client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])
    elif operation == "served":
        _served_model(client, client.get_run(run_id), values["model"], values["digest"])
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
    name = _model_name(f"{run.info.run_name} step {step}")
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'"):
        if found.tags.get(CHECKPOINT_TAG) == checkpoint:
            return str(found.model_id)
    tags = {CHECKPOINT_TAG: checkpoint, "longvu.step": str(step)}
    model_id = client.create_logged_model(experiment, name, run_id, tags=tags).model_id
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    return str(model_id)


def _served_model(client: Any, run: Any, checkpoint: str, digest: str) -> None:
    from mlflow.entities import LoggedModelInput

    model_id = _evaluated_model(client, run.info.experiment_id, checkpoint, digest)
    client.log_inputs(run.info.run_id, models=[LoggedModelInput(model_id)])


def _model_id(client: Any, experiment: str, digest: str) -> str | None:
    found = client.search_logged_models([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'", max_results=1)
    return str(found[0].model_id) if found else None


def _trace(client: Any, uri: str, run_id: str, answers: Sequence[ServedAnswer]) -> None:
    """A span per answer and one per stage, end to end in the order in which the stages are given."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    experiment = client.get_run(run_id).info.experiment_id
    served = {(one.checkpoint, one.digest) for one in answers}
    model_ids = {model: _evaluated_model(client, experiment, *model) for model in served}
    for one in answers:
        begin_s = one.ended_s - one.took_s
        root = mlflow.start_span_no_context(
            one.model,
            span_type="CHAT_MODEL",
            inputs=one.question,
            attributes=one.facts,
            metadata={"mlflow.sourceRun": run_id, "mlflow.modelId": model_ids[one.checkpoint, one.digest]},
            experiment_id=experiment,
            start_time_ns=int(begin_s * 1e9),
        )
        for stage, seconds in one.stages_s.items():
            span = mlflow.start_span_no_context(stage, parent_span=root, start_time_ns=int(begin_s * 1e9))
            begin_s += seconds
            span.end(end_time_ns=int(begin_s * 1e9))
        root.end(outputs=one.answer, end_time_ns=int(one.ended_s * 1e9))


def _add_scores(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import LoggedModelInput, Metric

    model_id = _evaluated_model(client, client.get_run(run_id).info.experiment_id, values["model"], values["digest"])
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    scores = [Metric(name, value, values["time_ms"], 0, model_id=model_id) for name, value in values["values"].items()]
    for start in range(0, len(scores), _MOST_METRICS):
        client.log_batch(run_id, metrics=scores[start : start + _MOST_METRICS])


def _evaluated_model(client: Any, experiment_id: str, model: str, digest: str) -> str:
    """The LoggedModel of a checkpoint, which is made if there is none yet."""
    for found in client.search_logged_models([experiment_id], f"tags.`{CHECKPOINT_TAG}` = '{model}'"):
        if found.tags.get(DIGEST_TAG, digest) == digest:  # training's have no digest: a checkpoint never changes
            return str(found.model_id)
    if (known := _model_id(client, experiment_id, digest)) is not None:
        return known
    name = _model_name(model.rstrip("/").rpartition("/")[2])
    made = client.create_logged_model(experiment_id, name, tags={CHECKPOINT_TAG: model, DIGEST_TAG: digest})
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def _model_name(text: str) -> str:
    return "".join(letter if letter not in "/:.%\"'" else "-" for letter in text)


def _add_artifacts(client: Any, run_id: str, files: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, uri in files.items():
            (Path(folder) / name).write_bytes(storage.read_bytes(uri))
        client.log_artifacts(run_id, folder)


@dataclass(frozen=True)
class RunRecord:
    """What a server knows of a run: the output that it made, its last metrics and its tags."""

    output: str
    metrics: dict[str, float]
    tags: dict[str, str]


def read_run(workdir: Path, run_id: str) -> RunRecord | None:
    """A run by its id; None where this workdir's server does not know it.

    Raises:
        UserError: the server cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(workdir)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None  # asking would make the database
    try:
        data = _client(uri).get_run(run_id).data
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise UserError(f"{uri}: {str(error).splitlines()[0][:200]}; check MLFLOW_TRACKING_URI") from None
    return RunRecord(data.tags.get(OUTPUT_TAG, ""), dict(data.metrics), dict(data.tags))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
