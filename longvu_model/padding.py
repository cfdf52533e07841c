"""Rows of token ids of different length to one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_rows(rows: Sequence[Sequence[int]], filler: int, side: str = "right") -> Tensor:
    """Rows filled up to the longest on one side: int64 (rows, longest).

    Raises:
        ValueError: no rows, or a side other than "left" and "right".
    """
    if not rows:
        raise ValueError("no rows to pad")
    if side not in ("left", "right"):
        raise ValueError(f"padding side {side!r}: use 'left' or 'right'")
    longest = max(map(len, rows))
    padded = torch.full((len(rows), longest), filler, dtype=torch.int64)
    for i, row in enumerate(rows):
        start = longest - len(row) if side == "left" else 0
        padded[i, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded
