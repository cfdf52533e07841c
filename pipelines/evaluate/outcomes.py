"""From answers to outcomes: what is scored, what cannot be read, what failed, each apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.evaluate.answers import Answer
from pipelines.evaluate.judge import Verdict
from pipelines.evaluate.tasks.base import Judged, Row, Task

Status = Literal["scored", "unparsed", "failed", "hidden", "excluded"]
STATUSES: tuple[Status, ...] = ("scored", "unparsed", "failed", "hidden", "excluded")


@dataclass(frozen=True)
class Outcome:
    """What became of one row.

    ``scored``: right, wrong or in between. ``unparsed``: the reply commits to no answer. ``failed``: there is no
    usable reply; ``cause`` says why. ``hidden``: answered, but the right answer is not public. ``excluded``: the
    benchmark's own file makes the row unanswerable. Only the first has a score.
    """

    row: Row
    status: Status
    prompt_digest: str
    score: float | None = None
    parsed: str | None = None
    cause: str | None = None
    message: str | None = None
    answer: Answer | None = None
    judge_words: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        """Rows of one cluster are about the same video."""
        row = self.row
        return row.cluster or (row.clip.path if row.clip else row.id)


def outcome_of(task: Task, row: Row, prompt_digest: str, answer: Answer | None) -> Outcome:
    """Read and score one answer; a task that needs a judge gets its score from :func:`with_verdict`."""
    blank = Outcome(row, "failed", prompt_digest, answer=answer)
    if row.excluded is not None:
        return replace(blank, status="excluded", cause="Excluded", message=f"{row.where}: {row.excluded}")
    if answer is None:
        return replace(blank, cause="Unanswered", message="the run ended before it was asked")
    if answer.failed:
        return replace(blank, cause=answer.cause, message=answer.message)
    if answer.option_scores is not None:
        return _likeliest(task, blank, answer.option_scores)
    assert answer.reply is not None, "an answer has a reply, scores or a cause"
    if task.needs_judge:
        return replace(blank, cause="Unjudged", message="the judge was not asked")
    return _scored(blank, task.score(row, answer.reply))


def with_verdict(outcome: Outcome, verdict: Verdict) -> Outcome:
    """What the judge's verdict makes of an outcome."""
    if verdict.judged.status == "judge_failed":
        return replace(outcome, cause=verdict.cause, message=verdict.message, judge_words=verdict.words)
    return _scored(replace(outcome, cause=None, message=None, judge_words=verdict.words), verdict.judged)


def to_judge(outcomes: Iterable[Outcome]) -> list[tuple[Row, str]]:
    """Rows with the replies that wait for a judge."""
    return [
        (outcome.row, outcome.answer.reply)
        for outcome in outcomes
        if outcome.cause == "Unjudged" and outcome.answer is not None and outcome.answer.reply is not None
    ]


def _scored(outcome: Outcome, judged: Judged) -> Outcome:
    if judged.status == "judge_failed":
        return replace(outcome, cause="JudgeUnreadable")
    score = judged.score if judged.status == "scored" else None
    return replace(outcome, status=judged.status, score=score, parsed=judged.parsed, detail=judged.detail)


def _likeliest(task: Task, outcome: Outcome, option_scores: Sequence[float]) -> Outcome:
    best = max(option_scores)
    labels = [label for label, score in zip(outcome.row.labels, option_scores, strict=True) if score == best]
    if len(labels) > 1:
        return replace(outcome, status="unparsed", message=f"options {', '.join(labels)} are equally likely")
    return _scored(outcome, task.score(outcome.row, labels[0]))
