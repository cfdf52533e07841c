"""What is recorded, and under which names; nothing here imports mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

EXPERIMENT = "longvu"
DESCRIPTION_TAG = "mlflow.note.content"
"""What MLflow shows, as Markdown, on top of a run's page."""
KEY_TAG = "longvu.key"
STAGE_TAG = "longvu.stage"
OUTPUT_TAG = "longvu.output"
CHECKPOINT_TAG = "longvu.checkpoint"
DIGEST_TAG = "longvu.digest"
LINK_TAG = "longvu.link."
"""Then a stage: id of a run that this one builds on."""
MODEL_TAG = "longvu.model."
"""Then a role: id of the LoggedModel that this run uses."""
MODEL_DIGEST_TAG = "longvu.model_digest."
"""Then a role: digest of that model's content, as it was used."""


@dataclass(frozen=True)
class RunIdentity:
    """What makes a restarted job find its run again.

    Args:
        stage: extract, train, evaluate or serve.
        name: shown in MLflow's list; should begin with the stage and tell runs apart.
        key: the output this run makes; the same key is the same run.
    """

    stage: str
    name: str
    key: str

    @property
    def command(self) -> str:
        """What a user types behind ``longvu``."""
        return "eval" if self.stage == "evaluate" else self.stage

    @classmethod
    def of_output(cls, stage: str, uri: str) -> Self:
        """The identity of the run that fills ``<root>/<name>-<digest>``: ``train tiny-video 46e3ec``.

        Runs of one name differ in their settings; the beginning of the digest tells them apart in a list.
        """
        name, _, digest = uri.rstrip("/").rpartition("/")[2].rpartition("-")
        return cls(stage, f"{stage} {name} {digest[:6]}", uri)


@dataclass(frozen=True)
class DatasetInput:
    """Data that a run reads, as MLflow's list of datasets shows it.

    Args:
        role: what for: sources, annotations, heldout, store, benchmark.
        name: for people.
        digest: of the content; MLflow keeps its first 32 characters.
        uri: where it is.
        facts: counts and sizes.
    """

    role: str
    name: str
    digest: str
    uri: str
    facts: Mapping[str, Any] = field(default_factory=dict)


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
