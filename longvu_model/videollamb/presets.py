"""Ready-made configurations: the published models by size, and tiny ones, which are built on the spot.

Published values are those of SEMANTICS sections 1, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig

from longvu_model.presets import TINY_VOCABULARY, Build
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.initialization import initialize_towers
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.processing import VideoLLaMBProcessor

_VIT_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def videollamb_7b() -> VideoLLaMBConfig:
    """Base: the tokens of the last of four scenes."""
    tower = {**_VIT_L, "image_size": 224, "hidden_act": "gelu"}
    return VideoLLaMBConfig(text_config=_vicuna_7b(), image_config=tower, video_config=tower)


def videollamb_7b_mem() -> VideoLLaMBConfig:
    """Mem: the memory tokens of up to eight scenes, over frames that CLIP sees one by one."""
    return VideoLLaMBConfig(
        text_config=_vicuna_7b(),
        image_config={**_VIT_L, "image_size": 336, "hidden_act": "quick_gelu"},
        visible="memory",
        pool_grid=14,
        num_scenes=None,
        max_boundaries=7,
    )


def tiny_videollamb() -> VideoLLaMBConfig:
    """About a million parameters; a scene of 8 frames costs 288 tokens, as 1152 in the release."""
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
    tower: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 96,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    return VideoLLaMBConfig(
        text_config=text,
        image_config=tower,
        video_config=tower,
        pool_grid=6,
        num_memory_tokens=8,
        bridge_heads=4,
        bridge_intermediate_size=128,
        max_sequence_length=1024,
    )


def tiny_videollamb_mem() -> VideoLLaMBConfig:
    """Mem: 8 memory tokens of each of up to eight scenes; frames are seen one by one."""
    base = tiny_videollamb()
    return VideoLLaMBConfig(
        **base.to_dict()
        | {
            "image_config": base.image_config.to_dict() | {"hidden_act": "quick_gelu"},
            "video_config": None,
            "visible": "memory",
            "num_scenes": None,
            "max_boundaries": 7,
        }
    )


PRESETS: dict[str, Callable[[], VideoLLaMBConfig]] = {
    preset.__name__: preset for preset in (tiny_videollamb, tiny_videollamb_mem, videollamb_7b, videollamb_7b_mem)
}


def random_model(config: VideoLLaMBConfig, seed: int = 0) -> VideoLLaMBForConditionalGeneration:
    """A float32 model with towers of structured and all else of random weights; torch's own seed stays untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoLLaMBForConditionalGeneration(config)
    initialize_towers(model.model.towers, seed)
    return model.eval()


def _build_tiny(config: VideoLLaMBConfig) -> Build:
    tokenizer = build_tiny_tokenizer("vicuna_v1", TINY_VOCABULARY)
    return Build(
        config,
        (tokenizer,),
        lambda seed: random_model(config, seed),
        lambda: VideoLLaMBProcessor.from_config(config, tokenizer),
    )


BUILDS: dict[str, Callable[[], Build]] = {
    "tiny_videollamb": lambda: _build_tiny(tiny_videollamb()),
    "tiny_videollamb_mem": lambda: _build_tiny(tiny_videollamb_mem()),
}


def _vicuna_7b() -> LlamaConfig:
    """Of LLaVA 1.5: Vicuna 1.5, which is Llama 2."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
