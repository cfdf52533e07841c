"""Cross-entropy of the positions that have a target, in chunks: the logits of a row never exist as a whole.

A row of 8192 tokens with a vocabulary of 152,064 has 4.6 GiB of float32 logits, most of them at positions that predict
nothing. Here a chunk's logits are made, reduced to one loss for each target and thrown away; the backward pass makes
them again. The full version is the oracle in the tests.

Shapes: S positions, N of them with a target, C model width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longvu_model.config import IGNORE_INDEX
from pipelines.train.config import CHUNK_TARGETS


def target_losses(
    hidden_SC: Tensor,
    targets_S: Tensor,
    head: Callable[[Tensor], Tensor],
    chunk_targets: int = CHUNK_TARGETS,
) -> Tensor:
    """Loss of every target, float32 (N,), in the order of the positions.

    Args:
        hidden_SC: hidden states after the final norm.
        targets_S: int64, on the CPU, the id that each position predicts, ``IGNORE_INDEX`` for none.
        head: (n, C) -> logits (n, vocabulary).
        chunk_targets: targets whose logits exist at a time.
    """
    places = (targets_S != IGNORE_INDEX).nonzero()[:, 0]
    targets_N = targets_S[places].to(hidden_SC.device)
    hidden_NC = hidden_SC[places.to(hidden_SC.device)]

    def losses(hidden_nC: Tensor, targets_n: Tensor) -> Tensor:
        return functional.cross_entropy(head(hidden_nC).float(), targets_n, reduction="none")

    if not len(places):
        return hidden_NC.float().sum(1)
    chunks = zip(hidden_NC.split(chunk_targets), targets_N.split(chunk_targets), strict=True)
    return torch.cat([checkpoint(losses, *chunk, use_reentrant=False) for chunk in chunks])
