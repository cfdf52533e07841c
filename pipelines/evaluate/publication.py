"""A run's results, made known: files, and an MLflow run that is linked to checkpoint and feature store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.evaluate import report
from pipelines.evaluate.answers import digest_of
from pipelines.evaluate.outcomes import Outcome
from pipelines.evaluate.preparation import Prepared, question_content
from pipelines.evaluate.results import FORMAT, RESULTS, ROWS, Results, metrics, rows_table, summary
from pipelines.evaluate.tasks.base import Judged
from pipelines.provenance import Provenance, checkpoint_uri
from pipelines.store import FeatureStore
from pipelines.store.writer import code_version
from pipelines.tracking import DatasetInput, RunIdentity, TrackedRun

_PACKAGES = ("torch", "transformers", "av", "ray", "openai", "mlflow")


def open_run(prepared: Prepared) -> TrackedRun:
    """The run in MLflow, linked to what it builds on; restarting finds it again."""
    config = prepared.config
    run = TrackedRun(Path(config.workdir), RunIdentity.of_output("evaluate", prepared.uri))
    run.params(config.flat())
    tags = {"task": config.task, "model_digest": prepared.terms.model, "config_digest": config.digest()}
    run.tags({f"longvu.{name}": value for name, value in tags.items()})
    if config.store:
        store = FeatureStore.open(config.store)
        run.inputs([DatasetInput("store", store.manifest.name, store.manifest.config_digest, store.uri)])
        run.tags({"longvu.store": store.uri})
        run.link_output("extract", store.uri)
    origin = Provenance.read(prepared.folder) if prepared.folder else None
    if origin is not None and origin.mlflow_run is not None:
        run.link("train", origin.mlflow_run)
    return run


def publish(prepared: Prepared, results: Results, outcomes: Sequence[Outcome], run: TrackedRun) -> None:
    """``results.json`` is written last: where it is, everything else is."""
    found = results.summary
    run.tags({f"longvu.{name}": found[name] for name in ("questions_digest", "prompt_digest", "frames")})
    run.evaluated(_model_uri(prepared), prepared.terms.model, metrics(found))
    run.describe(_description(found))
    found["mlflow"] = {"uri": run.uri, "run_id": run.run_id}
    names = _write_reports(prepared, results, outcomes)
    results.write()
    _record_data(prepared, results, run)
    run.artifacts({name: storage.join(results.uri, name) for name in (*names, ROWS, RESULTS)})


def _description(found: dict[str, Any]) -> str:
    task, model = found["task"], found["model"]
    headline = "; ".join(" ".join(line.split()) for line in report.headline_lines(found))
    return f"**{task['task']}** ({task['preset']}) by {model['name']}, frames {found['frames']}: {headline}"


def _model_uri(prepared: Prepared) -> str:
    """What names the model in MLflow."""
    if prepared.folder is None:
        return f"{prepared.config.endpoint} {prepared.config.model}"
    return checkpoint_uri(prepared.folder)


def _record_data(prepared: Prepared, results: Results, run: TrackedRun) -> None:
    """The questions; what they were about stands in ``results.parquet``, with a digest of the media of each."""
    digest, origin = results.summary["questions_digest"], storage.resolve(prepared.config.data)
    facts = {"num_questions": len(prepared.rows)}
    run.inputs([DatasetInput("benchmark", prepared.config.task, digest, origin, facts)])


def _write_reports(prepared: Prepared, results: Results, outcomes: Sequence[Outcome]) -> list[str]:
    """Names of the files."""
    files = report.render(results, prepared.task, outcomes)
    # Where options were weighed, the likeliest one's label is the reply.
    said = {o.row.id: o.answer.reply if o.answer and o.answer.reply is not None else o.parsed for o in outcomes}
    replies = {row_id: reply for row_id, reply in said.items() if reply is not None}
    submission = prepared.task.submission([outcome.row for outcome in outcomes], replies)
    if submission is not None:
        files[prepared.task.submission_name] = submission
    scored = [
        (one.row, replies[one.row.id], Judged("scored", one.parsed, one.score, one.detail))
        for one in outcomes
        if one.status == "scored"
    ]
    files |= prepared.task.published_results(Path(prepared.config.model).name, scored)
    for name, data in files.items():
        storage.write_bytes(storage.join(results.uri, name), data)
    return list(files)


def make_results(prepared: Prepared, outcomes: Sequence[Outcome]) -> Results:
    """What there is to publish; nothing is written."""
    table = rows_table(outcomes, lambda row: digest_of(question_content(row)))
    return Results(prepared.uri, _summary(prepared, outcomes), table)


def _summary(prepared: Prepared, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    config, task, terms = prepared.config, prepared.task, prepared.terms
    prompts = [outcome.prompt_digest for outcome in outcomes]
    found = {
        "format": FORMAT,
        "name": prepared.name,
        "task": task.settings(),
        **summary(task, outcomes),
        "frames": terms.frames + ("" if config.frame_selection else ", all kept"),
        "model_settings": prepared.overrides,
        "mode": config.mode if config.mode == "generate" else f"likelihood of the {terms.mode}",
        "subtitles": any(outcome.row.subtitles is not None for outcome in outcomes),
        "prompt_digest": digest_of(prompts),
        "questions_digest": digest_of([question_content(row) for row in prepared.rows]),
        "config_digest": config.digest(),
        "config": config.flat(),
        "model": {
            "name": config.model,
            "digest": terms.model if prepared.folder else None,
            "folder": str(prepared.folder.resolve()) if prepared.folder else None,
            "endpoint": config.endpoint,
            **terms.more,
        },
        "store": config.store,
        "judge": None if config.judge is None or not task.needs_judge else config.judge.model_dump(mode="json"),
        "versions": _versions(),
    }
    return json.loads(json.dumps(found, default=str))


def _versions() -> dict[str, str]:
    found = {"code": code_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def published(results: Results) -> bool:
    """Whether these results are there already; other packages or numbers of workers do not make them others."""
    if not storage.exists(storage.join(results.uri, RESULTS)):
        return False
    there = Results.load(results.uri)
    changing = dict.fromkeys(("versions", "mlflow", "config"))
    return there.summary | changing == results.summary | changing and there.rows.equals(results.rows)
