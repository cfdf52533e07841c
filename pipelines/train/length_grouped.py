"""The published way to form batches (SEMANTICS section 16.4): a sampler that groups by modality and sorts by length.

Kept as the baseline that :mod:`pipelines.train.plan` is measured against. Batches hold samples of one modality; within
the share of all ranks together (a megabatch) samples are sorted by length and dealt to even out the sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def length_grouped_batches(
    modality_lengths: Sequence[int], per_rank: int, ranks: int, seed: int
) -> list[list[NDArray[np.int64]]]:
    """Samples of each rank, step by step.

    Args:
        modality_lengths: words of each sample, negative for those that are grouped as text (published: videos too).
        per_rank: samples per rank and step.
    """
    lengths_N = np.asarray(modality_lengths)
    rng = np.random.default_rng(seed)
    size = per_rank * ranks
    whole, rest = [], []
    for group in (np.flatnonzero(lengths_N > 0), np.flatnonzero(lengths_N <= 0)):
        shuffled = rng.permutation(group)
        megabatches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        whole += megabatches[:-1]
        rest += megabatches[-1:]
    order = [whole[position] for position in rng.permutation(len(whole))]
    leftover = np.concatenate(rest) if rest else np.empty(0, np.int64)
    order += [leftover[start : start + size] for start in range(0, len(leftover), size)]
    return [_even_chunks(megabatch, np.abs(lengths_N), ranks) for megabatch in order]


def _even_chunks(megabatch: NDArray[np.int64], lengths_N: NDArray[np.int64], ranks: int) -> list[NDArray[np.int64]]:
    """The longest first, each to the rank with the smallest sum that is not full yet."""
    ordered = megabatch[np.argsort(-lengths_N[megabatch], kind="stable")]
    if len(ordered) % ranks:
        return [ordered[rank::ranks] for rank in range(ranks)]
    room = len(ordered) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for sample, length in zip(ordered.tolist(), lengths_N[ordered].tolist(), strict=True):
        chosen = sums.index(min(sums))
        shares[chosen].append(sample)
        sums[chosen] = sums[chosen] + length if len(shares[chosen]) < room else float("inf")
    return [np.array(share, np.int64) for share in shares]
