"""Small random models and inputs for tests: a 4 x 4 grid, a Q-Former of two layers, milliseconds per forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longvu_model.llamavid.config import IMAGE_TOKEN_INDEX, LlamaVidConfig
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.sight import Media

VOCABULARY, WORDS = 200, 90
TWO_TOKENS = 2


def small_config(**changes: Any) -> LlamaVidConfig:
    """A complete configuration with a class token and an even number of patches; ``changes`` are its fields."""
    fields: dict[str, Any] = {
        "text_config": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 256,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        "qformer_config": {
            "vocab_size": WORDS,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 32,
            "encoder_hidden_size": 20,
        },
        "num_queries": 4,
        "guide_length": 32,
        "max_sequence_length": 200,
    }
    return LlamaVidConfig(**{**fields, **changes})


def small_model(**changes: Any) -> LlamaVidForConditionalGeneration:
    """A random model in evaluation mode whose visual tokens are of the size of its text embeddings."""
    torch.manual_seed(0)
    model = LlamaVidForConditionalGeneration(small_config(**changes)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / parameter.shape[-1] ** 0.5))
    return model


def media(*frames: int, seed: int = 0) -> Media:
    """Random pixels of media of so many frames."""
    generator = torch.Generator().manual_seed(seed)
    return Media(torch.tensor(frames), pixel_values=torch.randn(sum(frames), 3, 16, 16, generator=generator))


def fields(given: Media) -> dict[str, Tensor]:
    """Media as arguments of ``forward``."""
    return {name: value for name, value in vars(given).items() if value is not None}


def guides(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Random guiding texts of so many word pieces, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"guide_ids": ids * mask, "guide_mask": mask}


def prompt(length: int, slots: tuple[int, ...] = (3,), seed: int = 0) -> Tensor:
    """Random ids (1, length) with slots at these places."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (1, length), generator=generator)
    ids[0, list(slots)] = IMAGE_TOKEN_INDEX
    return ids
