"""Small random models and media for tests: 6/3/2 grids, 14-pixel towers, a fraction of a second per forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longvu_model.config import IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.sight import Media

VOCABULARY = 200


def small_config(**changes: Any) -> LongVUConfig:
    """A complete configuration; ``backbone="llama"`` changes the language model, everything else is a field."""
    backbone = changes.pop("backbone", "qwen2")
    text = {
        "model_type": backbone,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": backbone == "llama",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    fields: dict[str, Any] = {
        "text_config": text,
        "siglip_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 14,
            "patch_size": 2,
        },
        "dino_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2,
            "use_swiglu_ffn": True,
            "image_size": 20,
            "patch_size": 2,
        },
        "dino_image_size": 14,
        "token_grid": 6,
        "full_grid": 3,
        "low_grid": 2,
        "vision_hidden_size": 32,
        "connector_depth": 2,
        "aggregator_heads": 16,
        "max_sequence_length": 200,
        "answer_reserve": 8,
    }
    return LongVUConfig(**{**fields, **changes})


def small_model(**changes: Any) -> LongVUForConditionalGeneration:
    """A random model in evaluation mode whose visual tokens are of the size of its text embeddings."""
    torch.manual_seed(0)
    model = LongVUForConditionalGeneration(small_config(**changes)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / parameter.shape[-1] ** 0.5))
    model.tie_weights()
    return model


def media(*shapes: tuple[int, int, int], seed: int = 0, images: tuple[int, ...] = ()) -> Media:
    """Random media of the given (frames, height, width); positions in ``images`` are images instead of videos."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(frames for frames, _, _ in shapes)
    return Media(
        torch.tensor([frames for frames, _, _ in shapes]),
        torch.tensor([[height, width] for _, height, width in shapes]),
        torch.tensor([index not in images for index in range(len(shapes))]),
        torch.randn(total, 3, 14, 14, generator=generator),
        torch.randn(total, 3, 14, 14, generator=generator),
    )


def select(given: Media, index: int) -> Media:
    """One medium of several."""
    start = int(given.frame_counts[:index].sum())
    stop = start + int(given.frame_counts[index])
    assert given.pixel_values_siglip is not None and given.pixel_values_dino is not None
    return Media(
        given.frame_counts[index : index + 1],
        given.image_sizes[index : index + 1],
        given.is_video[index : index + 1],
        given.pixel_values_siglip[start:stop],
        given.pixel_values_dino[start:stop],
    )


def prompt(length: int, slots: tuple[int, ...] = (3,), seed: int = 0) -> Tensor:
    """Random ids (1, length) with media slots at the given positions."""
    ids = torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, list(slots)] = IMAGE_TOKEN_INDEX
    return ids


def fields(given: Media) -> dict[str, Any]:
    """The keyword arguments of ``forward`` and ``generate`` for some media."""
    return {name: value for name, value in vars(given).items() if value is not None}
