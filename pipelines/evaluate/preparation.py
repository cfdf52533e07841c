"""What an evaluation is, found out before anything is asked: rows, prompts, terms, places."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.evaluate.answers import digest_of
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.questions import Terms, Work, frame_policy, make_work
from pipelines.evaluate.tasks.base import Row, Task
from pipelines.evaluate.tasks.registry import task as make_task
from pipelines.model_digests import model_digest
from pipelines.store import FeatureStore

# Where no similarity reaches it, every frame is kept.
_KEEP_ALL = 2.0


@dataclass(frozen=True)
class Prepared:
    """An evaluation that can begin.

    Args:
        folder: of the checkpoint; None with an endpoint.
        uri: where the results go; it carries the digests of configuration, model and questions.
        log_uri: where the answers are, shared by all runs of this model on this task.
        verdicts_uri: where the judge's verdicts are.
        retry_before_s: failures of before this time are asked again.
    """

    config: EvaluateConfig
    task: Task
    rows: list[Row]
    works: list[Work]
    terms: Terms
    folder: Path | None
    overrides: dict[str, float]
    uri: str
    log_uri: str
    verdicts_uri: str
    retry_before_s: float

    @property
    def name(self) -> str:
        return self.config.name or self.config.task


def prepare(config: EvaluateConfig, folder: Path | None) -> Prepared:
    """Find out what is asked; nothing is written but media digests.

    Args:
        folder: of the checkpoint that ``config.model`` names; None with an endpoint.

    Raises:
        UserError: what cannot be used, in one line.
    """
    task = chosen_task(config)
    rows = list(task.rows(Path(config.data)))[: config.limit]
    if not rows:
        raise UserError(f"data={config.data}: no questions of {config.task}")
    _check_rows(config, task, rows)
    overrides = {**task.preset.model_settings, **config.model_settings}
    if not config.frame_selection:
        overrides |= {"dino_threshold": _KEEP_ALL}
    terms = _terms(config, task, folder, overrides)
    asked = [row for row in rows if row.excluded is None]
    works = make_work(task, asked, config.media)
    root = storage.join(storage.resolve(config.output), "evaluate")
    digest = digest_of([config.digest(), terms.model, terms.more, [question_content(row) for row in rows]])[:12]
    name = config.name or config.task
    return Prepared(
        config=config,
        task=task,
        rows=rows,
        works=works,
        terms=terms,
        folder=folder,
        overrides=overrides,
        uri=storage.join(root, f"{name}-{digest}"),
        log_uri=storage.join(root, "answers", f"{config.task}-{digest_of(terms.model)[:12]}"),
        verdicts_uri=storage.join(root, "verdicts", config.task),
        retry_before_s=time.time() if config.retry_failed else 0.0,
    )


def chosen_task(config: EvaluateConfig) -> Task:
    """The task with its preset, and what the configuration changes of that.

    Raises:
        UserError: an unknown task, preset or option.
    """
    options = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in config.options.items()
    ]
    task = make_task(config.task, config.preset, options)
    changes: dict[str, Any] = {
        "sampling": config.frames,
        "max_new_tokens": config.generation.max_new_tokens,
        "temperature": config.generation.temperature,
        "likelihood": config.likelihood_of,
    }
    if config.frames is not None:
        task.preset = dataclasses.replace(task.preset, segments=None)
    task.preset = dataclasses.replace(task.preset, **{k: v for k, v in changes.items() if v is not None})
    return task


def _check_rows(config: EvaluateConfig, task: Task, rows: Sequence[Row]) -> None:
    if task.needs_judge and config.judge is None:
        raise UserError(f"task={config.task}: its answers are judged; give judge.endpoint=URL judge.model=NAME")
    if config.mode == "likelihood" and not all(row.options for row in rows):
        raise UserError(f"mode=likelihood: questions of {config.task} have no options to compare; use mode=generate")


def _terms(config: EvaluateConfig, task: Task, folder: Path | None, overrides: dict[str, float]) -> Terms:
    more: dict[str, Any]
    if folder is None:
        model = f"{config.endpoint} {config.model}"
        more = {"form": config.media_form.model_dump()}
    else:
        model = model_digest(folder, Path(config.workdir))
        more = {"precision": config.precision, "quantization": config.quantization, "settings": overrides}
        if config.store:
            more["store"] = _store_digest(config, task)
    preset = task.preset
    return Terms(
        model=model,
        frames=frame_policy(task),
        mode=preset.likelihood if config.mode == "likelihood" else "generate",
        system=preset.system,
        reply_prefix=preset.reply_prefix,
        max_new_tokens=preset.max_new_tokens,
        temperature=preset.temperature,
        top_p=config.generation.top_p,
        seed=config.generation.seed if preset.temperature else 0,
        more=more,
    )


def _store_digest(config: EvaluateConfig, task: Task) -> str:
    assert config.store is not None
    store = FeatureStore.open(config.store)
    stored = str(store.manifest.config["sampling"])
    if stored != str(task.sampling):
        raise UserError(
            f"store={config.store} has frames sampled by {stored}, and the preset {task.preset_name} of {config.task} "
            f"takes {task.sampling}: give frames={stored}, which is then written into the result, or leave out store="
        )
    return str(store.manifest.config_digest)


def question_content(row: Row) -> list[Any]:
    """What makes two rows the same question: not where its files lie."""
    return [row.id, row.question, row.options, row.answer, dict(row.categories), row.excluded]
