"""Predicted FLOPs against those that torch counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from longvu_model.presets import PRESETS
from pipelines.train.flops import language_flops


@pytest.mark.parametrize("tokens", [16, 200])
def test_a_step_costs_what_was_predicted(tokens: int) -> None:
    """Forward and backward of the tiny preset's language model, all positions learned."""
    config = PRESETS["tiny"]().text_config
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    embeds = torch.randn(1, tokens, config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embeds).logits.sum().backward()
    # torch counts the half of the scores that the mask hides, too; and the rotary table, which is nothing
    hidden_half = 3 * 2 * config.num_hidden_layers * 2 * config.hidden_size * tokens * (tokens - 1) / 2
    predicted = language_flops(config, np.array([tokens]), np.array([tokens]))[0]
    assert predicted == pytest.approx(counter.get_total_flops() - hidden_half, rel=1e-3)


def test_only_learned_tokens_have_logits_and_samples_do_not_mix() -> None:
    config = PRESETS["longvu_qwen2_7b"]().text_config
    one, half, two = language_flops(config, np.array([1000, 1000, 2000]), np.array([100, 50, 100]))
    assert one - half == pytest.approx(3 * 2 * 50 * config.hidden_size * config.vocab_size)
    assert 2 * one < two + (one - half) * 2
