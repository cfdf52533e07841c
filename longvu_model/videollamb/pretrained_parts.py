"""Pretrained parts that VideoLLaMB's training starts from: LLaVA's language model, LanguageBind's towers or CLIP."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor
from transformers import CLIPVisionConfig

from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.pretrained_parts import Parts, Recipe, language_config, language_state, own_fields, with_configs
from longvu_model.videollamb import checkpoint_names as names
from longvu_model.videollamb import official, presets
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.processing import VideoLLaMBProcessor

# LLaVA's own way from a picture to its language model.
_LLAVA = ("llava", "llava_llama")
_LLAVA_UNUSED = (r"model\.(mm_projector|vision_tower)\..*",)


def _read(shape: VideoLLaMBConfig, parts: Parts) -> tuple[VideoLLaMBConfig, dict[str, Tensor]]:
    towers = {"image_tower": names.IMAGE_TOWER_PREFIX, "video_tower": names.VIDEO_TOWER_PREFIX}
    config = with_configs(
        shape,
        text_config=language_config(parts["language_model"], shape.text_config, _LLAVA),
        image_config=_tower_config(parts["image_tower"]),
        video_config=_tower_config(parts["video_tower"]) if "video_tower" in parts else None,
    )
    state = language_state(parts["language_model"], _LLAVA_UNUSED)
    for part, prefix in towers.items():
        if part in parts:
            state |= official.model_state(config, official.read_tower(parts[part], prefix), parts[part])
    return config, state


def _tower_config(folder: Path) -> CLIPVisionConfig:
    given = json.loads((folder / "config.json").read_text())
    known = own_fields(CLIPVisionConfig)
    return CLIPVisionConfig(**{key: value for key, value in given.get("vision_config", given).items() if key in known})


def _processor(config: VideoLLaMBConfig, parts: Parts) -> VideoLLaMBProcessor:
    return VideoLLaMBProcessor.from_config(config, load_llama_tokenizer(parts["language_model"]))


RECIPE = Recipe(
    VideoLLaMBForConditionalGeneration,
    presets.PRESETS,
    {
        "language_model": "folder or hub id of llava-v1.5-7b",
        "image_tower": "folder or hub id of LanguageBind_Image (Mem: clip-vit-large-patch14-336)",
        "video_tower": "folder or hub id of LanguageBind_Video_merge (not in Mem)",
    },
    _read,
    _processor,
    new=("bridge",),
    has=lambda shape, part: part != "video_tower" or shape.video_config is not None,
)
