"""Two runs, side by side and question by question: ``longvu compare``.

Scores are those of ``results.json``, which MLflow has too. The test is paired: only questions that both runs have and
have scored count, and the rest is counted apart. A question is the same if its text, options and answer are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.evaluate.report import shown_score, shown_value
from pipelines.evaluate.results import Results, metrics
from pipelines.evaluate.statistics import Paired, paired
from pipelines.tables import print_table
from pipelines.tracking import read_run

_MAX_LISTED = 40


@dataclass(frozen=True)
class Pairs:
    """Questions that both runs scored: per question, both scores, the cluster, and the categories of the benchmark."""

    first: list[float]
    second: list[float]
    clusters: list[str]
    categories: list[dict[str, str]]

    def chosen(self, keep: Callable[[dict[str, str]], bool]) -> Pairs:
        places = [place for place, categories in enumerate(self.categories) if keep(categories)]
        columns = (self.first, self.second, self.clusters, self.categories)
        return Pairs(*([column[place] for place in places] for column in columns))  # type: ignore[arg-type]

    def compared(self, mean_over: str | None = None) -> Paired:
        groups = [categories.get(mean_over, "") for categories in self.categories] if mean_over else None
        return paired(self.first, self.second, self.clusters, groups)


@dataclass(frozen=True)
class Comparison:
    """What ``longvu compare`` shows.

    Attributes:
        runs: the first and the second run.
        pairs: how many questions are compared.
        apart: why the other questions are not, with their number.
        overall: the paired test of the headline.
        categories: the same within each value of each category.
        differences: settings that differ: name, first, second.
    """

    runs: tuple[Results, Results]
    pairs: int
    apart: dict[str, int]
    overall: Paired | None
    categories: dict[str, dict[str, Paired]]
    differences: list[tuple[str, str, str]]

    def as_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {"uri": storage.shown(run.uri), "mlflow": run.summary.get("mlflow"), "metrics": metrics(run.summary)}
                for run in self.runs
            ],
            "pairs": self.pairs,
            "apart": self.apart,
            "overall": self.overall.as_json() if self.overall else None,
            "categories": {
                category: {value: found.as_json() for value, found in values.items()}
                for category, values in self.categories.items()
            },
            "differences": [dict(zip(("name", "first", "second"), row, strict=True)) for row in self.differences],
        }


def find_run(place: str, workdir: Path) -> Results:
    """A run by its folder or prefix, or by the id that MLflow gave it.

    Raises:
        UserError: there is no such run, or MLflow has other numbers than the run's own files.
    """
    if not _is_run_id(place) or storage.is_folder(storage.resolve(place)):
        return Results.load(place)
    record = read_run(workdir, place)
    if record is None:
        raise UserError(f"{place}: neither a folder nor a run that MLflow knows; check workdir= or MLFLOW_TRACKING_URI")
    found = Results.load(record.output)
    own = metrics(found.summary)
    other = [name for name, value in own.items() if record.metrics.get(name) != value]
    if other:
        raise UserError(
            f"{place}: MLflow has {other[0]}={record.metrics.get(other[0])} and {storage.shown(found.uri)} has "
            f"{own[other[0]]}: the results were written again since; run the evaluation once more"
        )
    return found


def compare(first: Results, second: Results) -> Comparison:
    """Compare two runs of one task.

    Raises:
        UserError: they have no question in common.
    """
    if first.summary["score"] != second.summary["score"]:
        raise UserError(f"{first.summary['score']} and {second.summary['score']} cannot be compared")
    pairs, apart = _pairs(first, second)
    overall = pairs.compared(first.summary["headline"]["mean_over"]) if pairs.first else None
    names = list(dict.fromkeys(name for categories in pairs.categories for name in categories))
    found = {name: dict(_by_value(pairs, name)) for name in names}
    return Comparison((first, second), len(pairs.first), apart, overall, found, _differences(first, second))


def print_comparison(done: Comparison, file: IO[str] | None = None) -> None:
    """Tables for people."""
    out = file or sys.stdout
    first, second = (run.summary for run in done.runs)
    print_table(("", "first", "second"), list(_side_by_side(done)), out)
    apart = "".join(f", {count} {why}" for why, count in done.apart.items())
    print(f"paired: {done.pairs} questions{apart}", file=out)
    if done.overall is not None:
        for line in paired_lines(first["score"], done.overall):
            print(line, file=out)
    for category, values in done.categories.items():
        rows = [(value, *_category_row(first, second, category, value, found)) for value, found in values.items()]
        if len(rows) > 1:
            print_table((category, "first", "second", "difference", "95 %", "pairs"), rows[:_MAX_LISTED], out)
    if done.differences:
        print_table(("differs", "first", "second"), done.differences, out)


def paired_lines(score: str, found: Paired) -> Iterator[str]:
    """The paired test in words and numbers."""
    difference = found.difference
    if not difference.se:
        why = "one video" if difference.se is None else "the same in every video"
        yield f"difference  {_signed(score, difference.value)}  (second minus first; {why}: no interval)"
    else:
        yield f"difference  {_signed(score, difference.value, difference.se)}  (second minus first)"
    if found.bootstrap_ci95 is not None and difference.se:
        low, high = (_signed(score, bound) for bound in found.bootstrap_ci95)
        yield f"bootstrap over videos  95 %: {low} to {high}, p = {found.bootstrap_p:.3g}"
    if found.mcnemar_p is not None:
        only = f"{found.first_only} right only in the first, {found.second_only} only in the second"
        yield f"McNemar, exact  p = {found.mcnemar_p:.3g}  ({only}; takes questions for independent)"


def _is_run_id(place: str) -> bool:
    return len(place) == 32 and all(letter in "0123456789abcdef" for letter in place)


def _pairs(first: Results, second: Results) -> tuple[Pairs, dict[str, int]]:
    columns = ["row", "question_digest", "status", "score", "cluster", "categories"]
    one, other = ({row["row"]: row for row in run.rows.select(columns).to_pylist()} for run in (first, second))
    common = [row_id for row_id in one if row_id in other]
    if not common:
        raise UserError(
            f"{storage.shown(first.uri)} and {storage.shown(second.uri)} have no question in common: give runs of one "
            f"benchmark"
        )
    same = [row_id for row_id in common if one[row_id]["question_digest"] == other[row_id]["question_digest"]]
    scored = [row_id for row_id in same if one[row_id]["status"] == other[row_id]["status"] == "scored"]
    apart = {
        "only in the first": len(one) - len(common),
        "only in the second": len(other) - len(common),
        "asked in other words": len(common) - len(same),
        "not scored in both": len(same) - len(scored),
    }
    pairs = Pairs(
        [one[row_id]["score"] for row_id in scored],
        [other[row_id]["score"] for row_id in scored],
        [one[row_id]["cluster"] for row_id in scored],
        [dict(one[row_id]["categories"]) for row_id in scored],
    )
    return pairs, {why: count for why, count in apart.items() if count}


def _by_value(pairs: Pairs, category: str) -> Iterator[tuple[str, Paired]]:
    for value in dict.fromkeys(categories[category] for categories in pairs.categories if category in categories):
        yield value, pairs.chosen(lambda categories, value=value: categories.get(category) == value).compared()  # type: ignore[misc]


def _side_by_side(done: Comparison) -> Iterator[tuple[str, ...]]:
    summaries = [run.summary for run in done.runs]
    score = summaries[0]["score"]
    yield "run", *(storage.shown(run.uri) for run in done.runs)
    yield "mlflow run", *(str((found.get("mlflow") or {}).get("run_id", "–")) for found in summaries)
    yield score, *(shown_score(score, found["headline"]) for found in summaries)
    if all(found["unparsed_as_wrong"] for found in summaries):
        others = [found["unparsed_as_wrong"] for found in summaries]
        yield "unparsed as wrong", *(shown_score(score, other) for other in others)
    for status in summaries[0]["counts"]:
        counts = [found["counts"][status] for found in summaries]
        if any(counts):
            yield status, *map(str, counts)


def _category_row(
    first: dict[str, Any], second: dict[str, Any], category: str, value: str, found: Paired
) -> tuple[str, ...]:
    score, cells = first["score"], []
    for run in (first, second):
        entry = run["categories"][category][value]
        cells.append(shown_score(score, entry))
    interval = found.bootstrap_ci95 if found.difference.se else None
    shown = "–" if interval is None else " to ".join(_signed(score, bound) for bound in interval)
    return *cells, _signed(score, found.difference.value), shown, str(found.difference.n)


def _signed(score: str, value: float | None, se: float | None = None) -> str:
    """``+2.1 %``, or with its standard error ``+2.1 ± 0.9 %``."""
    text = shown_value(score, value) if se is None else shown_score(score, {"value": value, "se": se})
    return text if value is None or value < 0 else f"+{text}"


def _differences(first: Results, second: Results) -> list[tuple[str, str, str]]:
    """Settings that decide the score and are not the same."""
    flat = [_deciding(run.summary) for run in (first, second)]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return [
        (name, flat[0].get(name, "–"), flat[1].get(name, "–"))
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]


def _deciding(found: dict[str, Any]) -> dict[str, str]:
    task = {f"task.{name}": value for name, value in found["task"].items() if name != "about"}
    model = {f"model.{name}": value for name, value in found["model"].items()}
    rest = {name: found[name] for name in ("frames", "mode", "subtitles", "prompt_digest", "questions_digest", "judge")}
    return {name: _text(value) for name, value in {**task, **model, **rest}.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
