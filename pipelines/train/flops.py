"""Floating-point operations of the language model on one sample, from its configuration.

Shapes: N samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BACKWARD = 2  # a backward pass costs twice the forward one: gradients of inputs and of weights


def language_flops(text_config: Any, tokens_N: NDArray[np.int64], targets_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Forward and backward of each sample: linear in its tokens, attention quadratic, logits at targets only.

    Args:
        text_config: of the language model.
        tokens_N: text and visual tokens.
        targets_N: tokens that are learned.
    """
    hidden, layers = text_config.hidden_size, text_config.num_hidden_layers
    heads, groups = text_config.num_attention_heads, text_config.num_key_value_heads
    head = getattr(text_config, "head_dim", None) or hidden // heads
    projections = 2 * hidden * head * (heads + groups)  # query, output; key, value
    mlp = 3 * hidden * text_config.intermediate_size
    tokens, targets = tokens_N.astype(np.float64), targets_N.astype(np.float64)
    linear = 2.0 * layers * (projections + mlp) * tokens
    # a token sees itself and what is before it: scores and their weighted sum
    attention = 2.0 * layers * 2 * heads * head * tokens * (tokens + 1) / 2
    logits = 2.0 * hidden * text_config.vocab_size * targets
    return (1 + _BACKWARD) * (linear + attention + logits)
