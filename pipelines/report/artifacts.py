"""What there is to tell of a run folder, read from what its stages wrote; nothing is computed again or made up.

A part that the folder does not have is None, or empty, and the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.stage_records import StageRecord, read_stages
from pipelines.store import FeatureStore
from pipelines.tracking import RunRecord, read_history, read_series

GRID_TASK = "needle_grid"
_SERIES = ("loss", "heldout/loss", "heldout/exact_match", "tokens_per_s", "data_stall_share")

Series = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Training:
    """A training run.

    Args:
        stage: image or video.
        num_steps: of its plan.
        series: metrics by step, see ``_SERIES``.
    """

    name: str
    stage: str
    num_steps: int
    series: Series


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: ``summary`` as in ``results.json``, ``rows`` as in ``results.parquet``."""

    name: str
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def task(self) -> str:
        return str(self.summary["task"]["task"])

    @property
    def chance(self) -> float | None:
        """What guessing among the options would score; None where there are none."""
        counts = [len(row["options"]) for row in self.rows if row["options"]]
        return sum(1 / count for count in counts) / len(self.rows) if len(counts) == len(self.rows) > 0 else None

    @property
    def score(self) -> Mapping[str, Any]:
        """Value, standard error and number of questions; a reply that commits to no answer counts as wrong."""
        found: Mapping[str, Any] = self.summary["unparsed_as_wrong"] or self.summary["headline"]
        return found

    @property
    def visual_tokens(self) -> float | None:
        """Per question, on average."""
        value = self.summary["facts"].get("visual_tokens")
        return None if value is None else float(value)


@dataclass(frozen=True)
class Conversation:
    """What was asked over HTTP; ``record`` as in ``conversation.json``."""

    record: Mapping[str, Any]

    @property
    def exchanges(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.record["exchanges"]
        return found


@dataclass(frozen=True)
class Artifacts:
    """Everything that was found.

    Args:
        note: what the run says of itself, such as that it was a smoke run; empty for nothing.
        stages: records of finished stages in the order of their ends.
        store: the newest feature store.
        extraction: its run in MLflow.
        trainings: in the order of their starts, the newest of each stage.
        evaluations: in the order of their ends.
    """

    folder: Path
    note: str
    stages: Sequence[StageRecord]
    store: FeatureStore | None
    extraction: RunRecord | None
    trainings: Sequence[Training]
    evaluations: Sequence[Evaluation]
    conversation: Conversation | None

    @property
    def scored(self) -> list[Evaluation]:
        """Evaluations but the map of depth and length."""
        return [one for one in self.evaluations if one.task != GRID_TASK]

    @property
    def grid(self) -> Evaluation | None:
        return next((one for one in reversed(self.evaluations) if one.task == GRID_TASK), None)


def read_artifacts(folder: Path) -> Artifacts:
    """Look for everything in a run folder.

    Raises:
        UserError: MLflow's server cannot be reached.
    """
    root = folder.resolve()
    runs = list(read_history(root).runs.values())
    stores = _by_age(root.glob("features/*/store.json"))
    store = FeatureStore.open(stores[-1].parent) if stores else None
    extraction = next((run for run in runs if store and (run.stage, run.output) == ("extract", store.uri)), None)
    conversation, story = root / "conversation.json", root / "story.json"
    return Artifacts(
        folder=root,
        note=str(json.loads(story.read_text()).get("about", "")) if story.is_file() else "",
        stages=read_stages(root),
        store=store,
        extraction=extraction,
        trainings=_trainings(root, runs),
        evaluations=[_evaluation(path) for path in _by_age(root.glob("evaluate/*/results.json"))],
        conversation=Conversation(json.loads(conversation.read_text())) if conversation.is_file() else None,
    )


def _trainings(root: Path, runs: Sequence[RunRecord]) -> list[Training]:
    found: dict[str, Training] = {}
    for path in _by_age(root.glob("train/*/run.json")):
        record = json.loads(path.read_text())
        uri = storage.resolve(path.parent)
        run = next((run for run in runs if (run.stage, run.output) == ("train", uri)), None)
        series = read_series(root, run.run_id, _SERIES) if run else {}
        stage = record["config"]["stage"]["name"]
        found.pop(stage, None)
        found[stage] = Training(record["config"]["name"], stage, record["num_steps"], series)
    return list(found.values())


def _evaluation(path: Path) -> Evaluation:
    summary = json.loads(path.read_text())
    return Evaluation(summary["name"], summary, pq.read_table(path.with_name("results.parquet")).to_pylist())


def _by_age(paths: Any) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)
