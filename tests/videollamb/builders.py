"""Small random VideoLLaMB models and media: 28-pixel towers, milliseconds per forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longvu_model.videollamb.config import IMAGE_TOKEN_INDEX, VIDEO_TOKEN_INDEX, VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.sight import Media

VOCABULARY = 200


def small_config(**changes: Any) -> VideoLLaMBConfig:
    """A complete configuration; every argument is a field."""
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 2,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    fields: dict[str, Any] = {
        "text_config": text,
        "image_config": tower,
        "video_config": tower,
        "pool_grid": 2,
        "num_memory_tokens": 3,
        "bridge_heads": 2,
        "bridge_intermediate_size": 24,
        "bridge_dropout": 0.0,
        "max_sequence_length": 120,
    }
    return VideoLLaMBConfig(**{**fields, **changes})


MEM: dict[str, Any] = {"visible": "memory", "num_scenes": None, "max_boundaries": 7, "video_config": None}


def small_model(**changes: Any) -> VideoLLaMBForConditionalGeneration:
    """A random model in evaluation mode."""
    torch.manual_seed(0)
    model = VideoLLaMBForConditionalGeneration(small_config(**changes)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / parameter.shape[-1] ** 0.5))
    return model


def media(*frames: int, images: tuple[int, ...] = (), seed: int = 0) -> Media:
    """Random videos of so many frames; positions in ``images`` are images."""
    pixels = torch.randn(sum(frames), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Media(torch.tensor(frames), torch.tensor([i not in images for i in range(len(frames))]), pixels)


def prompt(length: int, *, image: bool = False, seed: int = 0) -> Tensor:
    """Random ids (1, length) with a slot."""
    ids = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, 3] = IMAGE_TOKEN_INDEX if image else VIDEO_TOKEN_INDEX
    return ids


def fields(given: Media) -> dict[str, Any]:
    """The keyword arguments of ``forward`` and ``generate`` for some media."""
    return {name: value for name, value in vars(given).items() if value is not None}
