"""Floating-point operations of a training step on one row, by arithmetic from the model's configuration.

They are those of matrix products, as ``torch.utils.flop_counter`` counts them; the tests hold the two together. What is
in front of the language model is counted by the family (:mod:`pipelines.train.families`).

Symbols: h width, i inner width, a query width, k key width of the language model.
"""

from __future__ import annotations

from typing import Any

from pipelines.train.config import EngineSettings
from pipelines.train.families import family_of
from pipelines.train.families.work import RowWork
from pipelines.train.stages import Stage


def language_model_flops(config: Any, work: RowWork, *, causal: bool = True) -> dict[str, float]:
    """Operations of the language model in one forward pass.

    Args:
        causal: count the half of the attention that kernels compute; otherwise all pairs, as torch's counter does.
    """
    text, pairs = config.text_config, work.attention_pairs / (2 if causal else 1)
    h, i, a, k = widths(config)
    return {
        "products": 2 * work.tokens * text.num_hidden_layers * (2 * h * a + 2 * h * k + 3 * h * i),
        "down projections": 2 * work.tokens * text.num_hidden_layers * h * i,
        "attention": 4 * text.num_hidden_layers * a * pairs,
        "head": 2 * work.targets * h * text.vocab_size,
    }


def step_flops(
    config: Any,
    stage: Stage,
    settings: EngineSettings,
    work: RowWork,
    *,
    causal: bool = True,
    attention_backward: float = 2.5,
) -> float:
    """Operations of forward and backward of one row, what is recomputed included.

    A product's backward pass costs as much again for its weight's gradient if that learns, and for its input's if
    anything before it does.

    Args:
        causal: see :func:`language_model_flops`.
        attention_backward: what the backward pass of attention costs in forward passes; flash kernels recompute the
            scores (2.5), others do not (2).
    """
    family, adapters = family_of(config), stage.lora is not None
    before = "towers" not in stage.frozen
    total = work.online_frames * family.tower_flops(config) * (3 if before else 1)
    for one in family.visual_parts(config, work):
        learns = one.part not in stage.frozen
        passed = before or (learns and one.chained)
        total += one.flops * (1 + learns + passed)
        if "towers" in stage.frozen and passed:  # features need no gradient
            total -= one.first
        before = before or learns
    before = before or "embeddings" not in stage.frozen
    learns = "language_model" not in stage.frozen and not adapters
    before_head = before or learns or adapters

    text = language_model_flops(config, work, causal=causal)
    layers = text["products"] * (1 + learns + (before or adapters))
    layers += text["attention"] * (1 + attention_backward * before_head)
    if settings.gradient_checkpointing and before_head:
        layers += text["products"] + text["attention"]
        layers -= text["down projections"]  # what is after the last tensor to be kept is not made again
    if adapters:
        layers += 3 * _adapter_flops(config, stage, work)
    return total + layers + text["head"] * (2 + ("head" not in stage.frozen) + before_head)


def widths(config: Any) -> tuple[int, int, int, int]:
    """h, i, a, k of the language model."""
    text, head = config.text_config, head_width(config)
    return text.hidden_size, text.intermediate_size, text.num_attention_heads * head, text.num_key_value_heads * head


def head_width(config: Any) -> int:
    """Width of one attention head."""
    text = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def adapter_weights(config: Any, stage: Stage) -> int:
    """Weights of all low-rank adapters."""
    assert stage.lora is not None
    h, i, a, k = widths(config)
    sides = {
        "q_proj": h + a, "k_proj": h + k, "v_proj": h + k, "o_proj": a + h,
        "gate_proj": h + i, "up_proj": h + i, "down_proj": i + h,
    }  # fmt: skip
    per_layer = sum(sides[target] for target in stage.lora.targets)
    return stage.lora.rank * per_layer * int(config.text_config.num_hidden_layers)


def _adapter_flops(config: Any, stage: Stage, work: RowWork) -> float:
    return 2 * work.tokens * adapter_weights(config, stage)
