"""The published order of training samples (SEMANTICS section 11): batches of one modality, of like length.

Kept to compare with; this project plans its batches in :mod:`pipelines.train.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# In which they are shuffled, one after the other.
MODALITIES = ("image", "language", "video")


def modality_batches(kinds: Sequence[str], lengths: Sequence[int], per_rank: int, ranks: int, seed: int) -> list[int]:
    """Sample numbers in the order in which they are dealt; the last mega-batch of each modality is dropped.

    Args:
        kinds: of each sample, one of ``MODALITIES``.
        per_rank: samples per rank and step.
        seed: of torch's generator.
    """
    generator = torch.Generator().manual_seed(seed)
    size = per_rank * ranks
    groups = [[i for i, kind in enumerate(kinds) if kind == one] for one in MODALITIES]
    present = [group for group in groups if group]
    if len(present) == 1:
        order = _megabatches(present[0], lengths, size, ranks, generator)
    else:
        order = [part for group in present for part in _megabatches(group, lengths, size, ranks, generator)[:-1]]
    shuffled = torch.randperm(len(order), generator=generator).tolist()
    return [i for batch in shuffled for i in order[batch]]


def _megabatches(
    group: Sequence[int], lengths: Sequence[int], size: int, ranks: int, generator: torch.Generator
) -> list[list[int]]:
    shuffled = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
    parts = [shuffled[start : start + size] for start in range(0, len(group), size)]
    return [_dealt(sorted(part, key=lambda i: lengths[i], reverse=True), lengths, ranks) for part in parts]


def _dealt(ordered: Sequence[int], lengths: Sequence[int], ranks: int) -> list[int]:
    """The longest first, each to the rank with the smallest sum that is not full yet; rank after rank."""
    if len(ordered) % ranks:
        return [i for rank in range(ranks) for i in ordered[rank::ranks]]
    room = len(ordered) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for sample in ordered:
        chosen = sums.index(min(sums))
        shares[chosen].append(sample)
        sums[chosen] = sums[chosen] + lengths[sample] if len(shares[chosen]) < room else float("inf")
    return [i for share in shares for i in share]
