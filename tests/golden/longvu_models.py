"""Builds the tiny LongVU models of a golden folder, and reads its cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, SiglipVisionConfig

from longvu_model import checkpoint_names as names
from longvu_model import official
from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration


@dataclass(frozen=True)
class Case:
    """A JSON description and its tensors; subsampled tensors are compared through :meth:`sampled`."""

    name: str
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    def sampled(self, what: str, full: Tensor) -> Tensor:
        """The part of a complete tensor that the folder stores."""
        rule = self.meta.get("subsampled", {}).get(what)
        if rule is None:
            return full
        return full.index_select(rule["axis"], torch.arange(0, full.shape[rule["axis"]], rule["stride"]))


def read_case(path: Path) -> Case:
    """The case of a ``.json`` file and the ``.safetensors`` file beside it."""
    return Case(path.stem, json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")))


def published_config(folder: Path, model: str, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], LongVUConfig]:
    """Published fields of a tiny model (its overrides applied) and our configuration for them."""
    published = {**json.loads((folder / f"models/{model}/config.json").read_text()), **overrides}
    towers = json.loads((folder / f"models/{model}/towers.json").read_text())
    crop = towers["dino"].pop("crop")
    published["mm_vision_tower_aux_list"] = ["siglip/tiny", f"dinov2/tiny-res{crop}"]
    config = official.config_from_published(
        published, SiglipVisionConfig(**towers["siglip"]), Dinov2Config(**towers["dino"])
    )
    return published, config


def build_model(folder: Path, model: str, overrides: Mapping[str, Any]) -> LongVUForConditionalGeneration:
    """A tiny model in float32 with its stored weights, in evaluation mode."""
    _, config = published_config(folder, model, overrides)
    state = {}
    for file, pairs, prefix in (
        ("model", names.MODEL_NAMES, ""),
        ("siglip", names.SIGLIP_NAMES, "model.towers.siglip."),
        ("dino", names.DINO_NAMES, "model.towers.dino."),
    ):
        for name, tensor in load_file(folder / f"models/{model}/{file}.safetensors").items():
            ours = names.rename(name, pairs)
            if ours is not None:
                state[prefix + ours] = tensor.float()
    official.check_state(config, state, model)
    result = LongVUForConditionalGeneration(config)
    result.load_state_dict(state, strict=False)
    result.tie_weights()
    return result.eval()
