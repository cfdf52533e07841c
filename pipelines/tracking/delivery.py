"""How a record becomes part of MLflow: runs, metrics, datasets, LoggedModels, traces.

Every function here raises what :func:`pipelines.tracking.server.unreachable` lists when the server does not take it.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.tracking.records import (
    CHECKPOINT_TAG,
    DESCRIPTION_TAG,
    DIGEST_TAG,
    EXPERIMENT,
    KEY_TAG,
    LINK_TAG,
    MODEL_DIGEST_TAG,
    MODEL_TAG,
    OUTPUT_TAG,
    STAGE_TAG,
    RunIdentity,
    ServedAnswer,
)

_MOST_METRICS = 1000
# MLflow takes 36 characters.
_DIGEST_DIGITS = 32
# The last value that MLflow keeps of this metric says how far a run's steps are recorded.
_STEP_METRIC = "step"
_ABOUT = (
    "Videos to features, checkpoints, scores and endpoints: one run per output, named after its stage (the tag "
    "longvu.stage). longvu lineage RUN follows a run's links to every source, and to what was made of it."
)


def find_run(client: Any, identity: RunIdentity, artifacts: str | None) -> str:
    """The id of an identity's run, which is made if there is none yet.

    Args:
        artifacts: where artifacts of a new experiment go; None leaves it to the server.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        experiment_id = client.create_experiment(EXPERIMENT, artifacts, {DESCRIPTION_TAG: _ABOUT})
    else:
        experiment_id = experiment.experiment_id
    found = _run_of(client, experiment_id, identity.stage, identity.key)
    if found is None:
        tags = {KEY_TAG: _key_digest(identity.key), STAGE_TAG: identity.stage, OUTPUT_TAG: identity.key}
        tags |= {"mlflow.source.name": f"longvu {identity.command}", "mlflow.source.type": "JOB"}
        found = str(client.create_run(experiment_id, run_name=identity.name, tags=tags).info.run_id)
    return found


def _run_of(client: Any, experiment_id: str, stage: str, key: str) -> str | None:
    """The id of the run that makes this output."""
    wanted = f"tags.`{KEY_TAG}` = '{_key_digest(key)}' and tags.`{STAGE_TAG}` = '{stage}'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _key_digest(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def apply(client: Any, run_id: str, operation: str, values: Mapping[str, Any]) -> None:
    """Carry out one record."""
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
    elif operation == "inputs":
        _add_inputs(client, run_id, values["datasets"])
    elif operation == "uses_model":
        _use_model(client, run_id, values["role"], values["model"], values["digest"])
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
            for name, value in {**measured, _STEP_METRIC: step}.items()
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
    place = storage.shown(checkpoint)
    about = (
        f"Checkpoint of step {step}, `{place}`. `longvu export {place} FOLDER` makes a model of it, until newer ones "
        "have taken its place (`checkpoint.keep_last`)."
    )
    tags = {CHECKPOINT_TAG: checkpoint, "longvu.step": str(step), DESCRIPTION_TAG: about}
    model_id = client.create_logged_model(experiment, name, run_id, tags=tags).model_id
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    return str(model_id)


def _add_inputs(client: Any, run_id: str, datasets: Sequence[Mapping[str, Any]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                one["name"],
                one["digest"][:_DIGEST_DIGITS],
                source_type="uri",
                source=json.dumps({"uri": one["uri"]}),
                profile=json.dumps(one["facts"]),
            ),
            [InputTag("mlflow.data.context", one["role"])],
        )
        for one in datasets
    ]
    client.log_inputs(run_id, datasets=inputs)


def _use_model(client: Any, run_id: str, role: str, checkpoint: str, digest: str) -> str:
    from mlflow.entities import LoggedModelInput, RunTag

    model_id = _used_model(client, client.get_run(run_id).info.experiment_id, checkpoint, digest)
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    # A search finds runs by tags, not by the models that they use.
    client.log_batch(run_id, tags=[RunTag(MODEL_TAG + role, model_id), RunTag(MODEL_DIGEST_TAG + role, digest)])
    return model_id


def _model_id(client: Any, experiment: str, digest: str) -> str | None:
    found = client.search_logged_models([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'", max_results=1)
    return str(found[0].model_id) if found else None


def trace(client: Any, uri: str, run_id: str, answers: Sequence[ServedAnswer]) -> None:
    """A span per answer and one per stage, end to end in the order in which the stages are given."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    experiment = client.get_run(run_id).info.experiment_id
    served = {(one.checkpoint, one.digest) for one in answers}
    model_ids = {model: _used_model(client, experiment, *model) for model in served}
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
    from mlflow.entities import Metric

    model_id = _use_model(client, run_id, "evaluated", values["model"], values["digest"])
    scores = [Metric(name, value, values["time_ms"], 0, model_id=model_id) for name, value in values["values"].items()]
    for start in range(0, len(scores), _MOST_METRICS):
        client.log_batch(run_id, metrics=scores[start : start + _MOST_METRICS])


def _used_model(client: Any, experiment_id: str, model: str, digest: str) -> str:
    """The LoggedModel of a checkpoint, which is made if there is none yet."""
    for found in client.search_logged_models([experiment_id], f"tags.`{CHECKPOINT_TAG}` = '{model}'"):
        # A training checkpoint never changes, in whichever layout or precision it is used.
        if found.source_run_id or found.tags.get(DIGEST_TAG) == digest:
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
