"""Arithmetic of bins: filling them, and dealing them to ranks.

Shapes: N items, S batches, B bins of each, R ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def best_fit_decreasing(sizes_N: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], int]:
    """Bin of each item, and the number of bins: each item, the largest first, into the fullest bin with room for it.

    The rooms that open bins have are the bits of one integer, so the tightest is found without a search.
    """
    bin_of: list[int] = [0] * len(sizes_N)
    by_room: list[list[int]] = [[] for _ in range(budget + 1)]
    rooms, count = 0, 0
    order = np.argsort(-sizes_N, kind="stable")
    for item, size in zip(order.tolist(), sizes_N[order].tolist(), strict=True):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = budget, count
            count += 1
        left = room - size
        if left:
            by_room[left].append(chosen)
            rooms |= 1 << left
        bin_of[item] = chosen
    return np.array(bin_of, np.int64), count


def cheapest_fit(samples: Sequence[tuple[int, int, float]], count: int, budget: int) -> list[list[int]] | None:
    """(sample, tokens, cost) into ``count`` bins, or None where they do not fit this way."""
    bins: list[list[int]] = [[] for _ in range(count)]
    tokens, flops = [0] * count, [0.0] * count
    for sample, size, cost in samples:
        fitting = [place for place in range(count) if tokens[place] + size <= budget]
        if not fitting:
            return None
        chosen = min(fitting, key=flops.__getitem__)
        bins[chosen].append(sample)
        tokens[chosen] += size
        flops[chosen] += cost
    return bins


def deal_ranks(flops_SB: NDArray[np.float64], ranks: int) -> NDArray[np.int64]:
    """Rank of each bin of each batch; costs in falling order along the second axis."""
    steps, bins = flops_SB.shape
    rank_of_SB = np.empty((steps, bins), np.int64)
    load_SR = np.zeros((steps, ranks))
    for start in range(0, bins, ranks):
        dealt = flops_SB[:, start : start + ranks]
        idlest = np.argsort(load_SR, axis=1, kind="stable")[:, : dealt.shape[1]]
        rank_of_SB[:, start : start + ranks] = idlest
        np.put_along_axis(load_SR, idlest, np.take_along_axis(load_SR, idlest, 1) + dealt, 1)
    return rank_of_SB


def rank_sums(rank_of_SB: NDArray[np.int64], flops_SB: NDArray[np.float64], ranks: int) -> NDArray[np.float64]:
    """Operations of every rank in every step, (S, R), from the rank and the operations of each bin."""
    steps = len(rank_of_SB)
    flat = rank_of_SB + np.arange(steps)[:, None] * ranks
    sums = np.bincount(flat.reshape(-1), flops_SB.reshape(-1), steps * ranks)
    return sums.reshape(steps, ranks).astype(np.float64)


def evenness(flops_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over maximum along the last axis."""
    mean, largest = flops_R.mean(axis=-1), flops_R.max(axis=-1)
    return np.divide(mean, largest, out=np.ones_like(largest), where=largest > 0)
