"""Index arithmetic over ragged rows stored back to back (frames of media, tokens of frames, cells of crops).

Everything here is exact integer arithmetic on small tensors; it replaces Python loops over rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def starts(counts: Tensor) -> Tensor:
    """Offset of each row in the packed storage: exclusive cumulative sum, int64 (n,) -> (n,)."""
    return counts.cumsum(0) - counts


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner row and position within it of every packed element.

    Args:
        counts: int64 (n,), elements per row.

    Returns:
        owner (total,) and offset (total,), both int64.
    """
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return owner, torch.arange(len(owner), device=counts.device) - starts(counts)[owner]


def sums(values: Tensor, owner: Tensor, num_rows: int) -> Tensor:
    """Sum of packed ``values`` (total, ...) per owner row -> (num_rows, ...)."""
    return values.new_zeros(num_rows, *values.shape[1:]).index_add_(0, owner, values)


def ranks(flags: Tensor, owner: Tensor, num_rows: int) -> Tensor:
    """Rank of each flagged element among the flagged ones of its row (undefined where not flagged).

    Args:
        flags: bool (total,), packed row after row.
        owner: int64 (total,), as returned by :func:`expand`.
        num_rows: number of rows, some of which may own nothing.
    """
    running = flags.long().cumsum(0)
    before = starts(sums(flags.long(), owner, num_rows))
    return running - 1 - before[owner]
