"""More positions than the language model was made for: linear scaling of the rotary angles (SEMANTICS section 5)."""

from __future__ import annotations

import math

from transformers import LlamaConfig

from longvu_model.llamavid.semantics import Semantics


def context_length(config: LlamaConfig) -> int:
    """Positions that a language model has, its scaling included."""
    return int(config.max_position_embeddings * _factor(config))


def extend_positions(config: LlamaConfig, max_length: int, rules: Semantics) -> LlamaConfig:
    """``config`` with room for ``max_length`` positions; itself where there is room already.

    Positions are divided by the factor; ``max_position_embeddings`` stays. Published rule: an existing factor is
    replaced by the ratio to the context it already gave, so that 16 and a request for 131072 of 4096 make 2.
    """
    context = context_length(config)
    if max_length <= context:
        return config
    base = context if rules.scaling_replaced else config.max_position_embeddings
    rope = {**(config.rope_parameters or {}), "rope_type": "linear", "factor": float(math.ceil(max_length / base))}
    return LlamaConfig.from_dict({**config.to_dict(), "rope_parameters": rope})


def _factor(config: LlamaConfig) -> float:
    return float((config.rope_parameters or {}).get("factor") or 1.0)
