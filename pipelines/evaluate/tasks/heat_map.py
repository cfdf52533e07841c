"""The picture of a needle test: score by how long the video is and how deep the needle lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# From low to high, as the published figures.
COLOURS = ("#F0496E", "#EBB839", "#0CD79F")
WITHOUT_SCORE = "#D0D0D0"
# Columns up to which the score is written into each cell.
_MOST_LABELLED = 24


@dataclass(frozen=True)
class Pivot:
    """Mean scores by depth (rows, ascending) and length (columns, ascending); NaN where there is none."""

    depths: list[float]
    lengths_s: list[float]
    scores_DL: NDArray[np.float64]


def pivot(cells: Iterable[tuple[float, float, float]]) -> Pivot:
    """Mean scores of (length in seconds, depth in per cent, score)."""
    scored = list(cells)
    lengths, depths = (sorted({cell[axis] for cell in scored}) for axis in (0, 1))
    total, count = np.zeros((2, len(depths), len(lengths)))
    for length, depth, score in scored:
        place = depths.index(depth), lengths.index(length)
        total[place] += score
        count[place] += 1
    with np.errstate(invalid="ignore"):
        return Pivot(depths, lengths, total / count)


def draw(
    table: Pivot, path: Path, *, title: str, label: str = "Score", limits: tuple[float, float] | None = (1.0, 10.0)
) -> Path:
    """Write the heat map as PNG: depth downwards, length to the right, cells without a score grey and empty.

    Args:
        limits: what the lowest and the highest colour stand for; None: the range of the data, as published code does.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("needle", COLOURS).with_extremes(bad=WITHOUT_SCORE)
    low, high = limits or (None, None)
    figure = Figure(figsize=(17.5, 8), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        np.ma.masked_invalid(table.scores_DL), cmap=colours, aspect="auto", vmin=low, vmax=high, interpolation="nearest"
    )
    axes.set_xticks(range(len(table.lengths_s)), [f"{length:g}" for length in table.lengths_s], rotation=45)
    axes.set_yticks(range(len(table.depths)), [f"{depth:g}" for depth in table.depths])
    axes.set_xticks(np.arange(-0.5, len(table.lengths_s)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(table.depths)), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.tick_params(labelsize=14)
    axes.set_xlabel("Length of the video in seconds", fontsize=15)
    axes.set_ylabel("Depth of the needle in per cent", fontsize=15)
    axes.set_title(title, fontsize=17)
    figure.colorbar(image, ax=axes).set_label(label, fontsize=15)
    if len(table.lengths_s) <= _MOST_LABELLED:
        for depth, length in np.argwhere(~np.isnan(table.scores_DL)):
            score = table.scores_DL[depth, length]
            said = f"{score:.0%}" if limits == (0.0, 1.0) else f"{score:.1f}"
            axes.text(length, depth, said, ha="center", va="center", fontsize=14)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72, metadata={"Software": None})
    return path
