"""Figures of the page as SVG text. One colour means one thing: LongVU, what it is compared with, the needle."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.intervals import share_interval
from pipelines.report.artifacts import Evaluation, Training
from pipelines.report.film import Film

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OTHER, NEEDLE, INK, MUTED, GRID = "#0f766e", "#9aa5b1", "#d9480f", "#1f2933", "#616e7c", "#e4e7eb"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "longvu",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def similarity_curve(film: Film) -> str:
    """Similarity of every sampled frame to its window, the threshold, and the frames below it."""
    figure, axes = _new(9.2, 2.9)
    times = np.array([frame.time_s for frame in film.frames])
    values = np.array([frame.similarity for frame in film.frames])
    kept = np.array([frame.kept for frame in film.frames])
    needle = np.array([frame.needle for frame in film.frames])
    axes.plot(times, values, color=OTHER, linewidth=1.2, zorder=2)
    axes.axhline(film.threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"threshold {film.threshold:g}",
        (1, film.threshold),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -13),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=10,
    )
    for chosen, colour, label in (
        (~kept, OTHER, "dropped"),
        (kept & ~needle, OURS, "kept"),
        (kept & needle, NEEDLE, "kept, shows the needle"),
    ):
        if chosen.any():
            size = 16 if label == "dropped" else 52
            axes.scatter(times[chosen], values[chosen], s=size, color=colour, label=label, zorder=3, linewidths=0)
    axes.set(xlabel="seconds of video", ylabel="similarity to its window", ylim=(-0.06, 1.06))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=10)
    return _svg(figure, "similarity")


def loss_curve(training: Training) -> str | None:
    """Training loss of every step, and of the held-out videos where it was looked at."""
    loss, heldout = training.series.get("loss", ()), training.series.get("heldout/loss", ())
    if not loss:
        return None
    figure, axes = _new(4.9, 2.9)
    steps, values = _columns(loss)
    axes.plot(steps, values, color=OTHER, linewidth=0.7, alpha=0.8, zorder=2)
    width = max(1, len(values) // 25)
    if width > 1:
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axes.plot(steps[width - 1 :], smooth, color=INK, linewidth=1.6, zorder=3, label=f"mean of {width} steps")
    if heldout:
        places, scores = _columns(heldout)
        axes.plot(places, scores, color=OURS, marker="o", markersize=6, linewidth=1.2, zorder=4, label="unseen videos")
    axes.set(xlabel="step", ylabel="loss (nats per token)", ylim=(0, None))
    axes.legend(loc="upper right", frameon=False, fontsize=10)
    return _svg(figure, f"loss-{training.stage}")


def accuracy_bars(evaluations: Sequence[Evaluation], labels: Sequence[str], chance: float | None) -> str:
    """Share of right answers with 95 % intervals."""
    figure, axes = _new(4.9, 1.1 + 0.62 * len(evaluations))
    for place, one in enumerate(evaluations):
        value = 100 * one.score["value"]
        colour = OURS if place == 0 else OTHER
        axes.barh(place, value, color=colour, height=0.62, zorder=2)
        low, high = (100 * bound for bound in share_interval(one.score) or (one.score["value"],) * 2)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.6, zorder=3, solid_capstyle="butt")
        inside = high > 70
        axes.annotate(
            f"{value:.1f} %",
            (low if inside else high, place),
            xytext=(-8 if inside else 8, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else INK,
            fontsize=12,
            fontweight="bold",
        )
    if chance is not None:
        axes.axvline(100 * chance, color=NEEDLE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(
            f"guessing {100 * chance:.1f} %",
            (100 * chance, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=NEEDLE,
            fontsize=10,
        )
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.set(xlim=(0, 100), xlabel="right answers in %")
    axes.invert_yaxis()
    return _svg(figure, "accuracy")


def heat_map(grid: Evaluation) -> str:
    """Share of right answers by length of the video and depth of the needle, with the number of questions."""
    cells: dict[tuple[float, float], list[float]] = {}
    for row in grid.rows:
        categories = dict(row["categories"])
        if row["status"] in ("scored", "unparsed"):
            place = float(categories["depth_percent"]), float(categories["length_s"])
            cells.setdefault(place, []).append(row["score"] or 0.0)
    depths, lengths = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    shares_DL = np.full((len(depths), len(lengths)), np.nan)
    for (depth, length), scores in cells.items():
        shares_DL[depths.index(depth), lengths.index(length)] = np.mean(scores)
    figure, axes = _new(4.9, max(2.1, 0.9 + 0.46 * len(depths)))
    axes.imshow(shares_DL, cmap=_ramp(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (place_d, place_l), share in np.ndenumerate(shares_DL):
        if not np.isnan(share):
            count = len(cells[depths[place_d], lengths[place_l]])
            text = f"{round(share * count)}/{count}"
            axes.text(place_l, place_d, text, ha="center", va="center", color="white" if share > 0.55 else INK)
    axes.set_xticks(range(len(lengths)), [f"{length:g} s" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:g} %" for depth in depths])
    axes.set(xlabel="length of the video", ylabel="depth of the needle")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xticks(np.arange(-0.5, len(lengths)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(depths)), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    return _svg(figure, "heat")


def _ramp() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share", ["#eef2f1", "#7fb8b2", OURS])


def _columns(series: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    steps, values = zip(*series, strict=True)
    return np.array(steps), np.array(values)


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """Text of one <svg> element, which scales with its column; ids are its own."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        memory = io.StringIO()
        figure.savefig(memory, format="svg", metadata={"Date": None, "Creator": None})
    text = memory.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"', r"<svg \1", text.replace("\n", " "), count=1)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
