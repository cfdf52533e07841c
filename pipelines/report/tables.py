"""Words and tables of the page: sentences with the run's own numbers, and what each stage managed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.intervals import shown_share
from pipelines.report.artifacts import Artifacts, Evaluation, Training

NOT_MEASURED = "–"


@dataclass(frozen=True)
class StageRow:
    """A line of the table of stages; texts as they are shown."""

    name: str
    seconds: str
    throughput: str
    ceiling: str
    command: str


def label(one: Evaluation) -> str:
    """What an evaluation is called on the page."""
    frames = str(one.summary["frames"])
    if "uniform" in frames:
        return f"{frames.split(',')[0].removeprefix('uniform:')} frames,\nspread evenly"
    return "LongVU" if one.name.startswith("longvu") else one.name


def share(one: Evaluation) -> str:
    """``97.9 ± 1.5 %``, with one standard error clustered by video, or with an interval where that is 0."""
    return "no score" if one.score["value"] is None else shown_share(one.score)


def stage_rows(found: Artifacts) -> list[StageRow]:
    """Every recorded stage with what it got through in a second, and the measured limit where there is one."""
    measured = {record.name: _evaluation(found, record.name, record.seconds) for record in found.stages}
    measured |= {record.name: _corpus(found, record.seconds) for record in found.stages if record.name == "corpus"}
    measured |= _extraction(found)
    measured |= {f"train {training.stage} stage": _training(training) for training in found.trainings}
    return [
        StageRow(record.name, _duration(record.seconds), *measured[record.name], " ".join(record.command))
        for record in found.stages
    ]


def total(found: Artifacts) -> str | None:
    """Of all recorded stages; None where there are none."""
    return _duration(sum(record.seconds for record in found.stages)) if found.stages else None


def _extraction(found: Artifacts) -> dict[str, tuple[str, str]]:
    if found.extraction is None:
        return {}
    metrics = found.extraction.metrics
    prefix = "ceiling_frames_per_s/"
    ceilings = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    reached = f"{metrics['frames_per_s']:.0f} frames/s" if "frames_per_s" in metrics else NOT_MEASURED
    limits = ", ".join(f"{name} {value:.0f}" for name, value in ceilings.items() if value > 0)
    return {"extract": (reached, f"{limits} frames/s" if limits else NOT_MEASURED)}


def _training(training: Training) -> tuple[str, str]:
    """Tokens per second of the middle step; the limit is that without waiting for data."""
    speeds, stalls = (dict(training.series.get(name, ())) for name in ("tokens_per_s", "data_stall_share"))
    if not speeds:
        return NOT_MEASURED, NOT_MEASURED
    unstalled = [speed / max(1e-9, 1 - stalls[step]) for step, speed in speeds.items() if step in stalls]
    ceiling = f"{statistics.median(unstalled):,.0f} tokens/s without waiting for data" if unstalled else NOT_MEASURED
    return f"{statistics.median(speeds.values()):,.0f} tokens/s", ceiling


def _corpus(found: Artifacts, seconds: float) -> tuple[str, str]:
    path = found.folder / "corpus" / "splits.json"
    if not path.is_file() or seconds <= 0:
        return NOT_MEASURED, NOT_MEASURED
    drawn = json.loads(path.read_text())["config"]
    count = drawn["stills"] + drawn["videos"] + drawn["heldout"]
    return f"{count / seconds:.1f} pictures and videos/s", NOT_MEASURED


def _evaluation(found: Artifacts, name: str, seconds: float) -> tuple[str, str]:
    """Questions per second of the whole job, its start included."""
    report = next((record.found.get("report", "") for record in found.stages if record.name == name), "")
    run = Path(report).parent.name
    one = next((one for one in found.evaluations if run.startswith(f"{one.name}-")), None)
    if one is None or seconds <= 0:
        return NOT_MEASURED, NOT_MEASURED
    return f"{len(one.rows) / seconds:.1f} questions/s, start included", NOT_MEASURED


def latencies(found: Artifacts) -> list[Mapping[str, str]]:
    """Seconds of each question, and where they went."""
    if found.conversation is None:
        return []
    longest = max(one["seconds"] for one in found.conversation.exchanges)
    return [
        {
            "ordinal": ordinal,
            "seconds": f"{one['seconds']:.2f} s" if one["seconds"] >= 0.1 else f"{1000 * one['seconds']:.0f} ms",
            "share": f"{100 * one['seconds'] / longest:.1f}",
            "parts": ", ".join(
                f"{name} {1000 * spent:.0f} ms" for name, spent in one["longvu"]["seconds"].items() if name not in _SUMS
            ),
        }
        for ordinal, one in zip(_ORDINALS, found.conversation.exchanges, strict=False)
    ]


# The endpoint's times that include others of them.
_SUMS = ("media", "first_token")
_ORDINALS: Sequence[str] = ("first question", "second question", "third question", "fourth question")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
