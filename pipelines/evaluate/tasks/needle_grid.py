"""The grid of a needle in a haystack: how long the videos are, how deep the needle lies in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Spacing = Literal["linear", "sigmoid", "sigmoid_published"]


@dataclass(frozen=True)
class Cell:
    """One video of the grid."""

    length_s: int
    depth_percent: float

    @property
    def insertion_s(self) -> int:
        """The whole second at which the needle starts."""
        return int(self.length_s * self.depth_percent / 100)

    def name(self, modality: str) -> str:
        """As published: ``modality_<m>_len_<s>_depth_<100 * depth>``."""
        return f"modality_{modality}_len_{self.length_s}_depth_{int(self.depth_percent * 100)}"


def grid(lengths_s: Sequence[int], depths: Sequence[float]) -> list[Cell]:
    """Every cell, length by length."""
    return [Cell(length_s, depth) for length_s in lengths_s for depth in depths]


def lengths(least_s: float, most_s: float, count: int) -> list[int]:
    """``count`` whole seconds, evenly spaced and rounded (half to even)."""
    return [int(length) for length in np.round(np.linspace(least_s, most_s, count))]


def depths(least: float, most: float, count: int, spacing: Spacing) -> list[float]:
    """``count`` depths in per cent.

    ``linear`` is even and rounded to whole per cent. ``sigmoid`` is denser towards both ends. ``sigmoid_published`` is
    what the published code makes of it: a sign counts twice, so all but the ends run backwards.
    """
    even = np.linspace(least, most, count)
    if spacing == "linear":
        return [float(depth) for depth in np.round(even)]
    sign = 1 if spacing == "sigmoid_published" else -1
    return [
        float(depth) if depth in (0, 100) else round(100 / (1 + math.exp(sign * 0.1 * (float(depth) - 50))), 3)
        for depth in even
    ]


def result_name(model: str, cell: Cell, modality: str) -> str:
    """Name of a cell's result, without extension, as published."""
    return f"{model.replace('.', '_')}_{cell.name(modality)}"
