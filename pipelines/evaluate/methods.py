"""Several methods on the same videos: accuracy against visual tokens per video, and uniform sampling at equal budgets.

Every point is an evaluation like any other (:mod:`pipelines.evaluate.evaluation`), kept and resumed as such. The
baseline is one of the models with its selection of frames switched off: it is shown so many frames, evenly spread, as
cost what the method beside it costs.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from longvu_model.video import probe
from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.preparation import chosen_task
from pipelines.evaluate.results import Results
from pipelines.evaluate.tasks.media import Clip
from pipelines.intervals import share_interval
from pipelines.tables import print_table

TABLE, FIGURE, POINTS = "methods.md", "methods.png", "methods.json"
UNIFORM = "uniform"
_COLOURS = {"longvu": "#2f6f8f", "videollamb": "#d98c3f", "llamavid": "#6b8f3f", UNIFORM: "#7a7a7a"}
_KEEPS = {
    "longvu": "frames that differ from their window, at one of two resolutions",
    "videollamb": "a memory carried from scene to scene",
    "llamavid": "every frame: a token for the question and one for the content",
}


class MethodsConfig(Config):
    """checkpoints + questions -> one table and one plot."""

    models: dict[str, str] = setting(about="name shown -> checkpoint folder or preset", min_length=1)
    task: str = setting("needle_synthetic", about="benchmark that all are asked: longvu eval --tasks lists them")
    preset: str | None = setting("text", about="whose prompt; null: the task's first")
    options: dict[str, Any] = setting({}, about="options of the task")
    data: str = setting(about="folder with the benchmark's files")
    frames: tuple[str, ...] = setting(("fps:1",), about="frame policies; each gives every method a point", min_length=1)
    baseline: str | None = setting(
        None, about="which of the models is also shown uniform frames at the others' budgets; null: the first LongVU"
    )
    limit: int | None = setting(None, about="questions at most; null: all", ge=1)
    output: str = setting("runs", about="root of the evaluations; table and plot go to <root>/methods")
    workdir: str = setting("runs", about="local folder for MLflow and preset models")

    def evaluation(self, model: str, frames: str, **changes: Any) -> EvaluateConfig:
        """One point's evaluation."""
        return EvaluateConfig.model_validate(
            {
                "task": self.task,
                "preset": self.preset,
                "options": self.options,
                "data": self.data,
                "limit": self.limit,
                "output": self.output,
                "workdir": self.workdir,
                "model": model,
                "frames": frames,
                **changes,
            }
        )


@dataclass(frozen=True)
class Point:
    """One method at one frame policy.

    Args:
        method: name shown.
        family: of the model; ``uniform`` for the baseline.
        beside: the method whose budget the baseline has; empty for methods.
        tokens: visual tokens per video, mean.
        kept: frames per video that the model saw, mean.
        tokens_per_minute: of video.
        accuracy, se: unparsed replies count as wrong; the standard error is clustered by video.
        interval: of 95 per cent, Wilson's; None with one video.
    """

    method: str
    family: str
    frames: str
    beside: str
    tokens: float
    sampled: float
    kept: float
    tokens_per_minute: float
    accuracy: float
    se: float | None
    interval: tuple[float, float] | None
    questions: int
    run: str


@dataclass(frozen=True)
class Methods:
    """What was compared, and where it was written."""

    points: list[Point]
    chance: float | None
    folder: Path


def compare_methods(
    config: MethodsConfig, families: Mapping[str, str], evaluate: Callable[[EvaluateConfig], Results]
) -> Methods:
    """Evaluate what is not evaluated yet, and write table, plot and numbers.

    Args:
        families: of the models, by the names shown.
        evaluate: runs an evaluation, or finds it finished.

    Raises:
        UserError: no baseline among the models, or an evaluation without scores.
    """
    baseline = config.baseline or next((name for name in config.models if families[name] == "longvu"), None)
    if baseline not in config.models:
        raise UserError(f"baseline={baseline}: give one of models ({', '.join(config.models)})")
    points, chance, minutes = [], None, video_minutes(config)
    for name, model in config.models.items():
        for frames in config.frames:
            results = evaluate(config.evaluation(model, frames))
            chance = results.summary["chance"]
            points.append(_point(name, families[name], frames, "", results, minutes))

    def uniform(count: int, beside: str) -> Point:
        # only LongVU has a selection to switch off
        changes = {"frame_selection": False} if families[baseline] == "longvu" else {}
        results = evaluate(config.evaluation(config.models[baseline], f"uniform:{count}", **changes))
        return _point(f"{UNIFORM} ({baseline})", UNIFORM, f"uniform:{count}", beside, results, minutes)

    single = uniform(1, "one frame")
    for point in list(points):
        points.append(uniform(max(1, round(point.tokens / single.tokens)), f"{point.method} {point.frames}"))
    points.append(single)
    done = Methods(points, chance, Path(config.output) / "methods")
    done.folder.mkdir(parents=True, exist_ok=True)
    (done.folder / TABLE).write_text(markdown(done) + "\n")
    (done.folder / FIGURE).write_bytes(figure(done))
    (done.folder / POINTS).write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    return done


def video_minutes(config: MethodsConfig) -> float:
    """Mean length of the videos that are asked about, or of the parts that are shown.

    Raises:
        UserError: questions without video files, which have no tokens per minute.
    """
    task = chosen_task(config.evaluation(next(iter(config.models.values())), config.frames[0]))
    clips = {row.clip.path: row.clip for row in list(task.rows(Path(config.data)))[: config.limit] if row.clip}
    if not clips or any(clip.frames_dir for clip in clips.values()):
        raise UserError(f"data={config.data}: no video files to compare methods on")
    return fmean(_seconds(Path(config.data), clip) for clip in clips.values()) / 60


def _seconds(data: Path, clip: Clip) -> float:
    info = probe(data / clip.path)
    whole_s = info.duration_s or 0.0
    return (whole_s if clip.end_s is None else clip.end_s) - (clip.start_s or 0.0)


def _point(name: str, family: str, frames: str, beside: str, results: Results, minutes: float) -> Point:
    found: Mapping[str, Any] = results.summary
    scored, facts = found["unparsed_as_wrong"] or found["headline"], found["facts"]
    if scored["value"] is None:
        raise UserError(f"{results.uri}: no question was scored; see its report.md")
    return Point(
        method=name,
        family=family,
        frames=frames,
        beside=beside,
        tokens=facts["visual_tokens"],
        sampled=facts["sampled_frames"],
        kept=facts["kept_frames"],
        tokens_per_minute=facts["visual_tokens"] / minutes,
        accuracy=scored["value"],
        se=scored["se"],
        interval=share_interval(scored),
        questions=scored["n"],
        run=results.uri,
    )


def rows(done: Methods) -> list[tuple[str, ...]]:
    """The table's cells."""
    return [
        (
            point.method,
            point.frames + (f" (as {point.beside})" if point.beside else ""),
            _KEEPS.get(point.family, "frames evenly spread"),
            f"{point.tokens_per_minute:.0f}",
            f"{point.tokens:.0f}",
            f"{100 * point.accuracy:.1f} %" + _bounds(point.interval),
        )
        for point in done.points
    ]


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


HEADER = ("method", "frames", "keeps", "tokens per minute", "tokens per video", "accuracy (95 %)")


def markdown(done: Methods) -> str:
    """The table for a README."""
    lines = [HEADER, ("---", "---", "---", "---:", "---:", "---:"), *rows(done)]
    chance = "" if done.chance is None else f" Chance: {done.chance:.1%}."
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\nThe same {done.points[0].questions} questions for all.{chance}"
    )


def print_methods(done: Methods) -> None:
    """The table on the terminal."""
    short = [(method, frames, minute, tokens, accuracy) for method, frames, _, minute, tokens, accuracy in rows(done)]
    print_table((HEADER[0], HEADER[1], *HEADER[3:]), short, sys.stdout)
    if done.chance is not None:
        print(f"chance: {done.chance:.1%}; {done.points[0].questions} questions each")
    print(f"written: {', '.join(str(done.folder / name) for name in (TABLE, FIGURE, POINTS))}")


def figure(done: Methods) -> bytes:
    """Accuracy against visual tokens per video, with 95 per cent intervals, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    drawing = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawing.subplots()
    for name in dict.fromkeys(point.method for point in done.points):
        line = sorted((point for point in done.points if point.method == name), key=lambda point: point.tokens)
        uniform = line[0].family == UNIFORM
        axes.errorbar(
            [point.tokens for point in line],
            [100 * point.accuracy for point in line],
            yerr=_bars(line),
            fmt="o--" if uniform else "o-",
            color=_COLOURS.get(line[0].family, "#2b2b2b"),
            markersize=5 if uniform else 8,
            linewidth=1.2,
            capsize=3,
            label=name,
            zorder=2 if uniform else 3,
        )
    if done.chance is not None:
        axes.axhline(100 * done.chance, color="#8a3b3b", linewidth=1, linestyle=(0, (4, 3)), label="chance")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 102)
    axes.set_xlabel("visual tokens per video")
    axes.set_ylabel("accuracy in %")
    axes.grid(color="#e4e2dd", zorder=0)
    axes.legend(fontsize=8, loc="best")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _bars(line: Sequence[Point]) -> list[list[float]]:
    """How far the intervals reach down and up, in per cent."""
    reaches = [point.interval or (point.accuracy, point.accuracy) for point in line]
    down = [100 * max(0.0, point.accuracy - low) for point, (low, _) in zip(line, reaches, strict=True)]
    up = [100 * max(0.0, high - point.accuracy) for point, (_, high) in zip(line, reaches, strict=True)]
    return [down, up]
