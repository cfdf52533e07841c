"""Attention over a preallocated cache, query heads grouped by the key head they share.

The library repeats keys and values for every query head when there is a mask, which for a cache of a few thousand
positions is most of a step's memory traffic. Here the query heads of a group stand side by side as queries of their
common head, and nothing is repeated.

Shapes: B rows, H query heads, G of them to a key head, K key heads, Q queries, S positions of the cache, D channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_SDPA = "longvu_grouped_sdpa"


def grouped_attention(
    module: nn.Module,
    query_BHQD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As the library's attention functions: (B, Q, H, D), and no weights.

    Args:
        attention_mask: bool or additive (B, 1, Q, S); without one the library's own function is used.
    """
    if attention_mask is None:
        return sdpa_attention_forward(module, query_BHQD, key_BKSD, value_BKSD, None, scaling=scaling, **kwargs)
    batch, heads, num_queries, width = query_BHQD.shape
    key_heads = key_BKSD.shape[1]
    rows = heads // key_heads * num_queries
    mask = attention_mask.expand(batch, 1, num_queries, -1)[:, :, None]
    mask = mask.expand(-1, -1, heads // key_heads, -1, -1).reshape(batch, 1, rows, -1)
    query = query_BHQD.reshape(batch, key_heads, rows, width)
    seen = scaled_dot_product_attention(query, key_BKSD, value_BKSD, attn_mask=mask, scale=scaling)
    return seen.reshape(batch, heads, num_queries, width).transpose(1, 2), None


def use_grouped_attention(decoder: nn.Module) -> None:
    """Let a decoder of the library attend with :func:`grouped_attention` from now on."""
    AttentionInterface.register(GROUPED_SDPA, grouped_attention)
    AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
    decoder.set_attn_implementation(GROUPED_SDPA)  # type: ignore[operator]
