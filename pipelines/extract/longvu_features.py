"""LongVU's features: DINOv2's, by which frames are selected, and SigLIP's."""

from __future__ import annotations

from typing import Any

from longvu_model.config import LongVUConfig
from longvu_model.tower_pixels import TowerPixels
from longvu_model.towers import DinoTower, SiglipTower, Tower
from pipelines.extract.families import VIT_FIELDS, Family, Feature, Kind

_DINO_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "patch_size",
    "image_size",
    "qkv_bias",
    "use_swiglu_ffn",
)


def _dino(config: LongVUConfig, kind: Kind) -> Tower:
    return DinoTower(config)


def _siglip(config: LongVUConfig, kind: Kind) -> Tower:
    return SiglipTower(config)


def _dino_facts(config: LongVUConfig) -> dict[str, Any]:
    facts = {field: getattr(config.dino_config, field) for field in _DINO_FIELDS}
    return facts | {"token_grid": config.token_grid, "input_size": config.dino_image_size}


def _siglip_facts(config: LongVUConfig) -> dict[str, Any]:
    return {field: getattr(config.siglip_config, field) for field in VIT_FIELDS} | {"token_grid": config.token_grid}


FAMILY = Family(
    name="LongVU",
    config_class=LongVUConfig,
    official="longvu_model.official",
    features=(
        Feature(
            name="dinov2",
            prefix="model.towers.dino.",
            shape=lambda config: (config.token_grid**2, config.dino_config.hidden_size),
            facts=_dino_facts,
            pixels=lambda config, kind: TowerPixels(config.dino_image_size, DinoTower.image_mean, DinoTower.image_std),
            tower=_dino,
        ),
        Feature(
            name="siglip",
            prefix="model.towers.siglip.",
            shape=lambda config: (config.token_grid**2, config.siglip_config.hidden_size),
            facts=_siglip_facts,
            pixels=lambda config, kind: TowerPixels(
                config.siglip_config.image_size, SiglipTower.image_mean, SiglipTower.image_std
            ),
            tower=_siglip,
            optional=True,
        ),
    ),
)
