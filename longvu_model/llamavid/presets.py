"""Ready-made configurations: the published models by size, and ``tiny_llamavid``, which is built on the spot.

Published values are those of SEMANTICS sections 1, 2 and 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig

from longvu_model.initialization import initialize_filters
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.guides import build_tiny_guide_tokenizer
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.positions import extend_positions
from longvu_model.llamavid.semantics import CORRECTED
from longvu_model.presets import TINY_VOCABULARY, Build
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

LONG_VIDEO_LENGTH = 65536


def llamavid_7b() -> LlamaVidConfig:
    """The video model: two tokens a frame."""
    return LlamaVidConfig(text_config=_vicuna(4096, 11008, 32, 32))


def llamavid_13b() -> LlamaVidConfig:
    return LlamaVidConfig(text_config=_vicuna(5120, 13824, 40, 40))


def llamavid_7b_long() -> LlamaVidConfig:
    """The model for videos of hours: the same with positions for 64K tokens."""
    text = extend_positions(_vicuna(4096, 11008, 32, 32), LONG_VIDEO_LENGTH, CORRECTED)
    return LlamaVidConfig(text_config=text, max_sequence_length=LONG_VIDEO_LENGTH)


def llamavid_7b_image_336() -> LlamaVidConfig:
    """The image model: all tokens of a picture of 336 pixels."""
    return LlamaVidConfig(
        text_config=_vicuna(4096, 11008, 32, 32),
        vision_config={"image_size": 336},
        compress_type="none",
        max_sequence_length=4096,
    )


def tiny_llamavid() -> LlamaVidConfig:
    """About a million parameters; two tokens a frame, so 2048 positions hold a quarter of an hour at 1 fps."""
    tokenizer = build_tiny_tokenizer("vicuna_v1", TINY_VOCABULARY)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 96,
        "patch_size": 8,
    }
    qformer: dict[str, Any] = {
        "vocab_size": len(build_tiny_guide_tokenizer()),
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "encoder_hidden_size": 64,
    }
    return LlamaVidConfig(
        text_config=text,
        vision_config=vision,
        qformer_config=qformer,
        num_queries=8,
        guide_length=128,
        max_sequence_length=2048,
    )


PRESETS: dict[str, Callable[[], LlamaVidConfig]] = {
    preset.__name__: preset
    for preset in (tiny_llamavid, llamavid_7b, llamavid_13b, llamavid_7b_long, llamavid_7b_image_336)
}


def random_model(config: LlamaVidConfig, seed: int = 0) -> LlamaVidForConditionalGeneration:
    """A float32 model with a tower of structured and all else of random weights; torch's own seed stays untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaVidForConditionalGeneration(config)
    initialize_filters(model.model.tower, torch.Generator().manual_seed(seed))
    return model.eval()


def _build_tiny() -> Build:
    from longvu_model.llamavid.processing import LlamaVidProcessor

    config = tiny_llamavid()
    tokenizer, guide_tokenizer = build_tiny_tokenizer("vicuna_v1", TINY_VOCABULARY), build_tiny_guide_tokenizer()
    return Build(
        config,
        (tokenizer, guide_tokenizer),
        lambda seed: random_model(config, seed),
        lambda: LlamaVidProcessor.from_config(config, tokenizer, guide_tokenizer),
    )


BUILDS: dict[str, Callable[[], Build]] = {"tiny_llamavid": _build_tiny}


def _vicuna(hidden_size: int, intermediate_size: int, num_hidden_layers: int, num_attention_heads: int) -> LlamaConfig:
    """Vicuna 1.5, which is Llama 2."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_attention_heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
