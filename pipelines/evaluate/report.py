"""A run for people: lines for the terminal, ``report.md``, and ``report.html``, one file with its figures inside."""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipelines import storage
from pipelines.evaluate.outcomes import Outcome
from pipelines.evaluate.results import Results
from pipelines.evaluate.tasks.base import Judged, Task
from pipelines.intervals import shown_interval, shown_share
from pipelines.tables import print_table

if TYPE_CHECKING:
    from pipelines.evaluate.evaluation import Evaluation

HTML, MARKDOWN = "report.html", "report.md"
PLUS_MINUS = "± is one standard error, clustered by video; where it is 0, Wilson's 95 % interval stands in its place"
_MOST_LISTED = 200
_COUNTED = {
    "scored": "scored",
    "unparsed": "unparsed: the reply commits to no answer",
    "failed": "failed: no usable reply",
    "hidden": "answered, but the right answer is not public",
    "excluded": "excluded: the benchmark's file makes them unanswerable",
}


def shown_score(name: str, found: Mapping[str, Any]) -> str:
    """``61.2 ± 3.1 %`` for shares, ``7.31 ± 0.20`` for ratings; ± is one standard error clustered by video.

    Where that is 0, a share is followed by its 95 % interval, and a rating by nothing.
    """
    if name == "accuracy":
        return shown_share(found)
    return shown_value(name, found["value"]) + (f" ± {found['se']:.2f}" if found["se"] else "")


def shown_value(name: str, value: float | None) -> str:
    """``61.2 %`` or ``7.31``."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if name == "accuracy" else f"{value:.2f}"


def print_evaluation(done: Evaluation, file: IO[str] | None = None) -> None:
    """The summary at the end of a run."""
    out, found = file or sys.stdout, done.results.summary
    if done.asked or done.judged:
        judged = f", {done.judged} verdicts" if done.judged else ""
        print(f"asked {done.asked} questions{judged} in {done.seconds:.1f} s", file=out)
    else:
        print(f"nothing to ask: every answer was there (looked for {done.seconds:.1f} s)", file=out)
    for line in headline_lines(found):
        print(line, file=out)
    for category, rows in category_rows(found):
        print_table((category, found["score"], "n", "unparsed", "failed"), rows, out)
    if found["causes"]:
        rows = [(cause, str(entry["questions"]), entry["example"]) for cause, entry in found["causes"].items()]
        print_table(("failed because", "questions", "for example"), rows, out)
    print(f"report   {storage.shown(storage.join(done.results.uri, HTML))}", file=out)
    if done.tracked:
        print(f"mlflow   {done.tracked}", file=out)
    print(f"next     longvu compare {storage.shown(done.results.uri)} OTHER_RUN", file=out)


def headline_lines(found: dict[str, Any]) -> Iterator[str]:
    """Score and counts, a line each."""
    score, headline = found["score"], found["headline"]
    over = f", mean over {headline['mean_over']}" if headline["mean_over"] else ""
    clusters = f"{headline['n']} questions about {headline['clusters']} videos"
    yield f"{score}  {shown_score(score, headline)}  ({clusters}{over})"
    other = found["unparsed_as_wrong"]
    if found["counts"]["unparsed"] and other is not None:
        value = shown_score(score, other)
        yield f"with unparsed replies as wrong  {value}  ({other['n']} questions)"
    yield "rows  " + "  ".join(f"{status} {count}" for status, count in found["counts"].items() if status != "rows")


def category_rows(found: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A table per category: value, score, questions, unparsed, failed."""
    for category, entries in found["categories"].items():
        rows: list[tuple[str, ...]] = []
        for value, entry in entries.items():
            score = shown_score(found["score"], entry)
            rows.append((value, score, str(entry["n"]), str(entry["unparsed"]), str(entry["failed"])))
        yield category, rows


def decided(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Everything that decides the score, by name."""
    task, model = found["task"], found["model"]
    judge = found["judge"]
    facts = {
        "model": f"{model['name']} ({model['endpoint'] or model['folder']})",
        "model digest": model["digest"] or "an endpoint's model has none",
        "task, preset": f"{task['task']}, {task['preset']}: {task['about']}",
        "frames": found["frames"],
        "model settings": ", ".join(f"{k}={v:g}" for k, v in found["model_settings"].items()) or "the checkpoint's",
        "subtitles": "shown" if found["subtitles"] else "not shown",
        "mode": found["mode"],
        "reply": f"at most {task['max_new_tokens']} tokens, temperature {task['temperature']:g}",
        "judge": f"{judge['model']} at {judge['endpoint']}" if judge else "none: scored by rule",
        "feature store": found["store"] or "none: videos were decoded",
        "prompts": found["prompt_digest"],
        "questions": found["questions_digest"],
        "configuration": found["config_digest"][:12],
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    }
    return list(facts.items())


def render(results: Results, task: Task, outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    """The files of a report by name."""
    figures = dict(_figures(results.summary, outcomes))
    pictures = pictures_of(task, outcomes)
    return {
        MARKDOWN: "\n".join(_markdown(results.summary, task)).encode(),
        HTML: _html(results.summary, task, outcomes, figures, pictures).encode(),
        **pictures,
    }


def pictures_of(task: Task, outcomes: Sequence[Outcome]) -> dict[str, bytes]:
    """The benchmark's own, such as a needle's heat map; of rows that failed they show nothing."""
    answered = [
        (outcome.row, Judged(outcome.status, outcome.parsed, outcome.score, outcome.detail))
        for outcome in outcomes
        if outcome.status in ("scored", "unparsed")
    ]
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in task.plots(answered, Path(folder))}


def _markdown(found: dict[str, Any], task: Task) -> Iterator[str]:
    yield f"# {found['name']}: {shown_score(found['score'], found['headline'])}\n"
    yield f"{task.about}\n"
    yield from (f"- {line}" for line in headline_lines(found))
    yield f"\n{PLUS_MINUS}.\n"
    for category, rows in category_rows(found):
        yield from _table((category, found["score"], "n", "unparsed", "failed"), rows)
    if found["causes"]:
        causes = [(cause, str(entry["questions"]), entry["example"]) for cause, entry in found["causes"].items()]
        yield from _table(("failed because", "questions", "for example"), causes)
    yield from _table(("decided by", ""), decided(found))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def _figures(found: dict[str, Any], outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    from pipelines.evaluate import plots

    percent = found["score"] == "accuracy"
    for category, entries in found["categories"].items():
        if sum(entry["value"] is not None for entry in entries.values()) > 1:
            yield category, plots.category_bars(category, entries, percent, found["chance"])
    read = [o for o in outcomes if o.status == "scored" and o.row.options and o.parsed and o.row.answer]
    if read:
        yield "labels", plots.label_bars([str(o.row.answer) for o in read], [str(o.parsed) for o in read])


def _html(
    found: dict[str, Any], task: Task, outcomes: Sequence[Outcome], figures: dict[str, str], pictures: dict[str, bytes]
) -> str:
    from jinja2 import Environment, StrictUndefined

    template = (files("pipelines.evaluate") / "report.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    headline = found["headline"]
    listed = [
        o for o in outcomes if o.status != "scored" or (o.score or 0) < (1 if found["score"] == "accuracy" else 6)
    ]
    return page.from_string(template).render(
        found=found,
        about=task.about,
        score=shown_score(found["score"], headline),
        interval=_interval(found),
        plus_minus=PLUS_MINUS,
        other=_other(found),
        lines=list(headline_lines(found)),
        counted=_COUNTED,
        categories=dict(category_rows(found)),
        figures=figures,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        decided=decided(found),
        listed=listed[:_MOST_LISTED],
        left_out=max(0, len(listed) - _MOST_LISTED),
    )


def _interval(found: dict[str, Any]) -> str:
    headline = found["headline"]
    if found["score"] == "accuracy" or headline["ci95"] is None:
        return shown_interval(headline)
    low, high = (shown_value(found["score"], bound) for bound in headline["ci95"])
    return f"95 %: {low} to {high}"


def _other(found: dict[str, Any]) -> str | None:
    other = found["unparsed_as_wrong"]
    if other is None or not found["counts"]["unparsed"]:
        return None
    return shown_score(found["score"], other)
