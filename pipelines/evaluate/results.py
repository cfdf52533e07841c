"""A run's results: one row per question, and what they sum up to. Written as Parquet and JSON, read back by compare.

<run>/results.parquet    a row per question: status, score, reply, cause, tokens, seconds
      results.json       scores with error bars, counts by status and cause, everything that was decided
      report.md, report.html, the task's submission file
"""

from __future__ import annotations

import json
import math
import statistics as plain
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError
from pipelines.evaluate.outcomes import STATUSES, Outcome
from pipelines.evaluate.statistics import estimate
from pipelines.evaluate.tasks.base import Row, Task
from pipelines.intervals import share_interval

FORMAT = 1
RESULTS, ROWS = "results.json", "results.parquet"
_FACTS = (
    "visual_tokens",
    "text_tokens",
    "reply_tokens",
    "sampled_frames",
    "kept_frames",
    "answer_s",
    "decode_s",
    "encode_s",
)

COLUMNS = pa.schema(
    [
        ("row", pa.string()),
        ("video", pa.string()),
        ("cluster", pa.string()),
        ("categories", pa.map_(pa.string(), pa.string())),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("parsed", pa.string()),
        ("reply", pa.string()),
        ("option_scores", pa.list_(pa.float64())),
        ("cause", pa.string()),
        ("message", pa.string()),
        ("judge", pa.string()),
        ("detail", pa.string()),
        ("question_digest", pa.string()),
        ("prompt_digest", pa.string()),
        ("prompt", pa.string()),
        ("media", pa.string()),
        ("regime", pa.string()),
        ("finish_reason", pa.string()),
        ("damage", pa.string()),
        *((name, pa.float64()) for name in _FACTS),
    ]
)


def rows_table(outcomes: Sequence[Outcome], question_digest: Callable[[Row], str]) -> pa.Table:
    """One row per question, in the order of the benchmark's files."""
    return pa.Table.from_pylist([_row(outcome, question_digest) for outcome in outcomes], COLUMNS)


def summary(task: Task, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the outcomes sum up to, as in ``results.json``."""
    scored = [outcome for outcome in outcomes if outcome.status == "scored"]
    counts = Counter(outcome.status for outcome in outcomes)
    answered = [outcome for outcome in outcomes if outcome.status in ("scored", "unparsed")]
    right_or_wrong = task.kind != "score10"
    return {
        "score": score_name(task),
        "headline": _estimate(task, scored, mean_over=task.mean_over)
        | {"mean_over": task.mean_over, "of": "scored questions"},
        # The other reading of an unreadable reply: some publications count it as wrong, some leave it out.
        "unparsed_as_wrong": _estimate(task, answered, mean_over=task.mean_over) if right_or_wrong else None,
        "chance": _chance(scored),
        "counts": {"rows": len(outcomes)} | {status: counts[status] for status in STATUSES},
        "causes": _causes(outcomes),
        "categories": _categories(task, outcomes),
        "details": _details(scored),
        "facts": _fact_means(outcomes),
    }


def score_name(task: Task) -> str:
    """accuracy, or the mean rating of a judge."""
    return "rating" if task.kind == "score10" else "accuracy"


def metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of ``results.json`` as MLflow has them; what compare shows is named likewise."""
    score = results["score"]
    found: dict[str, Any] = {}
    headline = results["headline"]
    found |= {score: headline["value"], f"{score}_se": headline["se"], f"{score}_n": headline["n"]}
    if (other := results["unparsed_as_wrong"]) is not None:
        found |= {f"{score}_unparsed_as_wrong": other["value"], f"{score}_unparsed_as_wrong_se": other["se"]}
    found |= {f"count/{status}": count for status, count in results["counts"].items()}
    found |= {f"failed/{cause}": entry["questions"] for cause, entry in results["causes"].items()}
    for category, values in results["categories"].items():
        for value, entry in values.items():
            found[f"{score}/{category}/{value}"] = entry["value"]
            found[f"{score}_se/{category}/{value}"] = entry["se"]
    found |= {f"mean/{name}": entry["value"] for name, entry in results["details"].items()}
    found |= {f"mean/{name}": value for name, value in results["facts"].items()}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Results:
    """A finished run: its folder or prefix, ``results.json`` and ``results.parquet``."""

    uri: str
    summary: dict[str, Any]
    rows: pa.Table

    @classmethod
    def load(cls, place: str) -> Results:
        """Read a run.

        Raises:
            UserError: there is no finished run, or one in another format.
        """
        uri = storage.resolve(place)
        try:
            found = json.loads(storage.read_bytes(storage.join(uri, RESULTS)))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{storage.shown(uri)}: no finished evaluation ({RESULTS} is missing); give the folder that "
                f"longvu eval printed, or an MLflow run id"
            ) from None
        if found.get("format") != FORMAT:
            raise UserError(
                f"{storage.shown(uri)}: format {found.get('format')} of results, this program reads {FORMAT}"
            )
        rows = pa.BufferReader(storage.read_bytes(storage.join(uri, ROWS)))
        # Without threads: Arrow's give Python's bytes back when they like, which aborts a process that is just ending.
        return cls(uri, found, pq.ParquetFile(rows).read(use_threads=False))

    def write(self) -> None:
        """Rows first: where ``results.json`` is, the run is finished."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.rows, sink, compression="zstd")
        storage.write_bytes(storage.join(self.uri, ROWS), sink.getvalue().to_pybytes())
        text = json.dumps(self.summary, indent=1, ensure_ascii=False, allow_nan=False)
        storage.write_bytes(storage.join(self.uri, RESULTS), text.encode())


def _row(outcome: Outcome, question_digest: Callable[[Row], str]) -> dict[str, Any]:
    row, answer = outcome.row, outcome.answer
    facts = answer.facts if answer else {}
    return {
        "row": row.id,
        "video": row.clip.path if row.clip else None,
        "cluster": outcome.cluster,
        "categories": list(row.categories.items()),
        "question": row.question,
        "options": list(row.options),
        "answer": row.answer,
        "status": outcome.status,
        "score": outcome.score,
        "parsed": outcome.parsed,
        "reply": answer.reply if answer else None,
        "option_scores": list(answer.option_scores) if answer and answer.option_scores else None,
        "cause": outcome.cause,
        "message": outcome.message,
        "judge": outcome.judge_words,
        "detail": json.dumps(dict(outcome.detail), default=str) if outcome.detail else None,
        "question_digest": question_digest(row),
        "prompt_digest": outcome.prompt_digest,
        "prompt": answer.prompt if answer else None,
        "media": (answer.media or None) if answer else None,
        **{name: facts.get(name) for name in ("regime", "finish_reason", "damage")},
        **{name: _number(facts.get(name)) for name in _FACTS},
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _estimate(task: Task, outcomes: Sequence[Outcome], mean_over: str | None = None) -> dict[str, Any]:
    """Unparsed outcomes count as 0, so the caller decides whether they are among them."""
    groups = [outcome.row.categories.get(mean_over, "") for outcome in outcomes] if mean_over else None
    scores = [outcome.score or 0.0 for outcome in outcomes]
    found = estimate(scores, [outcome.cluster for outcome in outcomes], groups).as_json()
    return found | {"wilson95": share_interval(found) if score_name(task) == "accuracy" else None}


def _categories(task: Task, outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        for category, value in outcome.row.categories.items():
            found[category][value].append(outcome)
    return {
        category: {value: _entry(task, members) for value, members in values.items()}
        for category, values in found.items()
    }


def _entry(task: Task, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    scored = [outcome for outcome in outcomes if outcome.status == "scored"]
    counts = Counter(outcome.status for outcome in outcomes)
    return _estimate(task, scored) | {status: counts[status] for status in STATUSES if status != "scored"}


def _causes(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Why questions failed, the most frequent cause first, with an example."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    examples: dict[str, str] = {}
    for outcome in failed:
        examples.setdefault(str(outcome.cause), outcome.message or "")
    counts = Counter(str(outcome.cause) for outcome in failed)
    return {cause: {"questions": count, "example": examples[cause]} for cause, count in counts.most_common()}


def _chance(scored: Sequence[Outcome]) -> float | None:
    """What guessing would score, where there are options."""
    if not scored or not all(outcome.row.options for outcome in scored):
        return None
    return plain.fmean(1 / len(outcome.row.options) for outcome in scored)


def _details(scored: Sequence[Outcome]) -> dict[str, Any]:
    """Means of the further numbers that judging gave, such as a judge's 0 to 5."""
    values: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for outcome in scored:
        for name, value in outcome.detail.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[name].append((float(value), outcome.cluster))
    return {name: estimate(*map(list, zip(*found, strict=True))).as_json() for name, found in values.items()}


def _fact_means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means over the questions that were answered."""
    found: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for name in _FACTS:
            if outcome.answer is not None and outcome.answer.facts.get(name) is not None:
                found[name].append(float(outcome.answer.facts[name]))
    return {name: plain.fmean(values) for name, values in found.items()}
