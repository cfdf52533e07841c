"""Figures of a report as SVG text: one colour means one thing, every bar has its 95 % interval."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluate.answers import digest_of
from pipelines.intervals import share_interval

RIGHT, GIVEN, CHANCE, INK, GRID = "#2f6f8f", "#d98c3f", "#8a3b3b", "#2b2b2b", "#e4e2dd"
_BAR_INCHES = 0.34
_MOST_BARS = 40


def category_bars(title: str, entries: Mapping[str, Mapping[str, Any]], percent: bool, chance: float | None) -> str:
    """Scores of a category's values, with 95 % intervals clustered by video and the number of questions."""
    from matplotlib.figure import Figure

    shown = {name: entry for name, entry in entries.items() if entry["value"] is not None}
    chosen = list(shown.items())[:_MOST_BARS]
    scale = 100 if percent else 1
    figure = Figure(figsize=(7.2, 0.9 + _BAR_INCHES * len(chosen)), layout="constrained")
    axes = figure.subplots()
    values = [entry["value"] * scale for _, entry in chosen]
    places = range(len(chosen))
    axes.barh(places, values, color=RIGHT, height=0.62, zorder=2)
    for place, (_, entry) in enumerate(chosen):
        interval = share_interval(entry) if percent else entry["ci95"]
        if interval is not None:
            # Beyond the ends of the scale there is nothing to show.
            low, high = (min(max(bound * scale, 0), scale if percent else 10) for bound in interval)
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4, zorder=3, solid_capstyle="butt")
    if chance is not None:
        axes.axvline(chance * scale, color=CHANCE, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(
            "chance",
            (chance * scale, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=CHANCE,
            fontsize=8,
            ha="center",
        )
    axes.set_yticks(places, [f"{name}  ({entry['n']})" for name, entry in chosen], fontsize=9)
    axes.set_xlim(0, 100 if percent else 10)
    axes.set_xlabel("accuracy in %" if percent else "rating, 1 to 10", fontsize=9)
    axes.invert_yaxis()
    return _svg(figure, title)


def label_bars(answers: Sequence[str], parsed: Sequence[str]) -> str:
    """How often each label is right and how often it was given: a model that prefers a letter shows here."""
    from matplotlib.figure import Figure

    right, given = Counter(answers), Counter(parsed)
    labels = sorted({*right, *given})
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for offset, counts, colour, name in ((-0.2, right, RIGHT, "right"), (0.2, given, GIVEN, "given")):
        total = max(1, sum(counts.values()))
        heights = [100 * counts[label] / total for label in labels]
        axes.bar([place + offset for place in range(len(labels))], heights, 0.38, color=colour, label=name, zorder=2)
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylabel("share in %", fontsize=9)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper right")
    axes.margins(y=0.25)
    return _svg(figure, "labels that are right, and labels that were given", grid="y")


def _svg(figure: Any, title: str, grid: str = "x") -> str:
    """Text stays text, so it can be searched; the same figure gives the same bytes."""
    import matplotlib

    for axes in figure.axes:
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0, labelsize=9)
        axes.grid(axis=grid, color=GRID, linewidth=0.8, zorder=0)
        axes.set_axisbelow(True)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "longvu", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": title}, transparent=True)
    svg = file.getvalue()
    # Ids are the document's: two figures in one page must not share any.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>f{digest_of(title)[:8]}-", svg[svg.index("<svg") :])
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_escaped(title)}" ', 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
