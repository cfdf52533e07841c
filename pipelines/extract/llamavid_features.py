"""LLaMA-VID's feature: every token of the EVA-G tower, the class token first.

The tower sees each frame by itself and before the question comes in, so its output can be kept; everything behind it
(Q-Former, context and content tokens) depends on the question. Nothing of it is left out or averaged: the Q-Former
reads all tokens, and which of them are the visual ones is for the model's semantics to say.
"""

from __future__ import annotations

from typing import Any

from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.towers import EvaTower
from longvu_model.tower_pixels import TowerPixels
from longvu_model.towers import Tower
from pipelines.extract.families import VIT_FIELDS, Family, Feature, Kind


def _facts(config: LlamaVidConfig) -> dict[str, Any]:
    return {field: getattr(config.vision_config, field) for field in VIT_FIELDS}


def _pixels(config: LlamaVidConfig, kind: Kind) -> TowerPixels:
    """Of frames the central square; of pictures too when the release is asked about one."""
    crop = kind == "video" or config.rules.inference_crops
    return TowerPixels(config.vision_config.image_size, EvaTower.image_mean, EvaTower.image_std, crop)


def _tower(config: LlamaVidConfig, kind: Kind) -> Tower:
    return EvaTower(config)


FAMILY = Family(
    name="LLaMA-VID",
    config_class=LlamaVidConfig,
    official="longvu_model.llamavid.official",
    features=(
        Feature(
            name="eva",
            prefix="model.tower.",
            shape=lambda config: (config.grid**2 + 1, config.vision_config.hidden_size),
            facts=_facts,
            pixels=_pixels,
            tower=_tower,
        ),
    ),
)
