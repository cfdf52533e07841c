"""The published order of samples: modalities apart, near lengths together (SEMANTICS section 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longvu_model.llamavid.semantics import Semantics


def grouped_order(
    lengths: Sequence[int], batch_size: int, ranks: int, generator: torch.Generator, rules: Semantics
) -> list[int]:
    """Sample numbers in the order of an epoch.

    Args:
        lengths: of each sample, negative for those without a medium.
        batch_size: samples of a rank and step.

    Raises:
        ValueError: a length of 0; under published semantics, samples of one kind alone.
    """
    if not all(lengths):
        raise ValueError(f"sample {list(lengths).index(0)} has length 0")
    size = batch_size * ranks
    kinds = [[i for i, length in enumerate(lengths) if (length > 0) == has_medium] for has_medium in (True, False)]
    if rules.sampler_needs_text and not all(kinds):
        raise ValueError(
            f"{len(kinds[0])} samples with a medium, {len(kinds[1])} without: the published sampler needs both kinds"
        )
    whole, rest = [], []
    for members in kinds:
        order = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        megabatches = [_dealt(order[i : i + size], lengths, ranks) for i in range(0, len(order), size)]
        whole += megabatches[:-1]
        rest += [i for megabatch in megabatches[-1:] for i in megabatch]
    order = [i for position in torch.randperm(len(whole), generator=generator).tolist() for i in whole[position]]
    return rest[:size] + order + rest[size:] if len(rest) >= size else order + rest


def _dealt(members: list[int], lengths: Sequence[int], ranks: int) -> list[int]:
    """The longest first, each to the rank with the smallest sum that has room, the ranks' shares one after another."""
    ordered = sorted(members, key=lambda i: abs(lengths[i]), reverse=True)
    if len(ordered) % ranks:
        return [i for rank in range(ranks) for i in ordered[rank::ranks]]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for i in ordered:
        open_shares = [share for share in shares if len(share) < len(ordered) // ranks]
        min(open_shares, key=lambda share: sum(abs(lengths[j]) for j in share)).append(i)
    return [i for share in shares for i in share]
