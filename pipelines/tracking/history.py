"""The reading side: what a server knows of runs and models."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.tracking.records import (
    CHECKPOINT_TAG,
    DIGEST_TAG,
    EXPERIMENT,
    OUTPUT_TAG,
    STAGE_TAG,
    DatasetInput,
)
from pipelines.tracking.server import connected, tracking_uri, unreachable

_PAGE = 500


@dataclass(frozen=True)
class RunRecord:
    """What a server knows of a run.

    Args:
        output: what the run made, its key.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        started_ms: milliseconds since the epoch.
        inputs: data that it read.
    """

    run_id: str
    stage: str
    name: str
    output: str
    status: str
    started_ms: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    inputs: tuple[DatasetInput, ...]

    def tagged(self, prefix: str) -> dict[str, str]:
        """Values of the tags that begin so, by the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tags.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class ModelRecord:
    """What a server knows of a model.

    Args:
        checkpoint: URI of the training checkpoint, or what else names the model.
        digest: of its content; None of what was trained here.
        run_id: of the training run that made it; None of what was not trained here.
    """

    model_id: str
    name: str
    checkpoint: str
    digest: str | None
    run_id: str | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class History:
    """All runs and models that a server knows, by id, the newest first."""

    uri: str
    runs: Mapping[str, RunRecord]
    models: Mapping[str, ModelRecord]


def read_run(workdir: Path, run_id: str) -> RunRecord | None:
    """A run by its id; None where this workdir's server does not know it.

    Raises:
        UserError: the server cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(workdir)
    if not _exists(uri):
        return None
    try:
        return _run_record(connected(uri).get_run(run_id))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise _no_answer(uri, error) from None


def read_history(workdir: Path) -> History:
    """Everything that this workdir's server knows of our experiment; nothing where there is no database yet.

    Raises:
        UserError: the server cannot be reached.
    """
    uri = tracking_uri(workdir)
    if not _exists(uri):
        return History(uri, {}, {})
    client = connected(uri)
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return History(uri, {}, {})
        place = [experiment.experiment_id]
        runs = _pages(lambda token: client.search_runs(place, max_results=_PAGE, page_token=token))
        models = _pages(lambda token: client.search_logged_models(place, max_results=_PAGE, page_token=token))
        return History(
            uri,
            {record.run_id: record for record in map(_run_record, runs)},
            {record.model_id: record for record in map(_model_record, models)},
        )
    except unreachable() as error:
        raise _no_answer(uri, error) from None


def find_run(workdir: Path, stage: str, output: str) -> str | None:
    """The id of the run that makes an output; None where this workdir's server knows none.

    Raises:
        UserError: the server cannot be reached.
    """
    runs = read_history(workdir).runs.values()
    return next((run.run_id for run in runs if (run.stage, run.output) == (stage, output)), None)


def read_series(workdir: Path, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Step and value of everything that was measured under these names, in the order of the steps.

    Raises:
        UserError: the server cannot be reached, or does not know the run.
    """
    uri = tracking_uri(workdir)
    client = connected(uri)
    try:
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    except unreachable() as error:
        raise _no_answer(uri, error) from None
    return {name: sorted((one.step, one.value) for one in history) for name, history in histories.items()}


def read_artifact(workdir: Path, run_id: str, name: str) -> bytes | None:
    """A file that a run left; None if there is none.

    Raises:
        UserError: the server, or the place where it keeps files, cannot be reached.
    """
    uri = tracking_uri(workdir)
    client = connected(uri)
    try:
        if name not in {item.path for item in client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_bytes()
    except unreachable() as error:
        raise _no_answer(uri, error) from None


def _exists(uri: str) -> bool:
    """Asking a database that is not there would make it."""
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def _no_answer(uri: str, error: BaseException) -> UserError:
    return UserError(f"{uri}: {str(error).splitlines()[0][:200]}; check MLFLOW_TRACKING_URI")


def _pages(page: Any) -> Iterator[Any]:
    token = None
    while True:
        found = page(token)
        yield from found
        if not (token := found.token):
            return


def _run_record(run: Any) -> RunRecord:
    tags = dict(run.data.tags)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RunRecord(
        run_id=run.info.run_id,
        stage=tags.get(STAGE_TAG, ""),
        name=run.info.run_name,
        output=tags.get(OUTPUT_TAG, ""),
        status=run.info.status,
        started_ms=run.info.start_time,
        metrics=dict(run.data.metrics),
        tags=tags,
        inputs=tuple(map(_dataset_input, inputs)),
    )


def _dataset_input(found: Any) -> DatasetInput:
    dataset, tags = found.dataset, {tag.key: tag.value for tag in found.tags}
    uri = json.loads(dataset.source).get("uri", "")
    facts = json.loads(dataset.profile or "{}")
    return DatasetInput(tags.get("mlflow.data.context", ""), dataset.name, dataset.digest, uri, facts)


def _model_record(model: Any) -> ModelRecord:
    tags = model.tags
    return ModelRecord(
        model_id=model.model_id,
        name=model.name,
        checkpoint=tags.get(CHECKPOINT_TAG, ""),
        digest=tags.get(DIGEST_TAG),
        run_id=model.source_run_id or None,
        metrics={metric.key: metric.value for metric in model.metrics or ()},
    )
