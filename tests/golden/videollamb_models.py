"""Builds the tiny VideoLLaMB parts and models of a golden folder, and reads its cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from longvu_model.checkpoint_files import rename_state
from longvu_model.videollamb import official
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration

_VISION_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Case:
    """An entry of ``cases.json`` and its tensors by kind (``in``, ``mid``, ``out``, ``w``)."""

    meta: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.meta["config"])

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name has the prefix, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def read_cases(folder: Path, *kinds: str) -> Iterator[Case]:
    """Cases of these kinds, in the order of ``cases.json``."""
    for meta in json.loads((folder / "cases.json").read_text())["cases"]:
        if meta["kind"] in kinds:
            yield Case(meta, load_file(folder / meta["file"]))


def bridge_config(config: Mapping[str, Any], **changes: Any) -> VideoLLaMBConfig:
    """The configuration of a case that tests the bridge alone."""
    width = config["mm_hidden_size"]
    side = config.get("pool_hw", [12])[0]
    vision = {"hidden_size": width, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": width}
    fields = {
        "text_config": {"model_type": "llama", "hidden_size": config["hidden_size"], "num_attention_heads": 1},
        "image_config": vision,
        "pool_grid": side,
        "num_memory_tokens": config.get("num_memory_tokens", 32),
        "bridge_depth": config.get("depth", 1),
        "bridge_heads": config["mm_num_attention_heads"],
        "bridge_intermediate_size": config["mm_intermediate_size"],
        "bridge_norm_eps": config["mm_layer_norm_eps"],
        "semantics": "published",
    }
    return VideoLLaMBConfig(**{**fields, **changes})


MEM = {"visible": "memory", "num_scenes": None, "max_boundaries": 7}
NO_RETRIEVAL = {**MEM, "retrieval": False, "boundary_alpha": 1.0}


def load_part(module: nn.Module, named: Mapping[str, Tensor], pairs: Any, unused: Any) -> None:
    """Fill a part of a model with published tensors; none may be missing or surplus."""
    state = rename_state(named.items(), pairs, unused, "case")
    module.load_state_dict(state)
    module.eval()


def clip_config(vision: Mapping[str, Any]) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        **{key: value for key, value in vision.items() if key not in ("select_layer", "temporal_window")}
    )


def tower_tensors(config: CLIPVisionConfig, named: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """Tensors of a tower without the layers behind its feature."""
    depth = official.num_blocks(config, layer)
    behind = tuple(f"encoder.layers.{i}." for i in range(depth, config.num_hidden_layers))
    plain = {name.removeprefix("vision_model."): tensor for name, tensor in named.items()}
    return {name: tensor for name, tensor in plain.items() if not name.startswith(behind)}


def build_model(folder: Path, overrides: Mapping[str, Any], **changes: Any) -> VideoLLaMBForConditionalGeneration:
    """The composed model of the ``e2e`` cases in float32 with its stored weights, in evaluation mode."""
    case = next(read_cases(folder, "e2e_weights"))
    vision = dict(case.config["vision"])
    own = {key: vision[key] for key in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
    published = {**case.config, **overrides, "videollamb": {"vision": {"image": own, "video": own}, **changes}}
    config, state = official.read(published, case.part("w."), case.name)
    model = VideoLLaMBForConditionalGeneration(config)
    model.load_state_dict(state)
    return model.eval()


def pixels_of_rows(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (F, 3, s, s) of all rows, frames per row, and which rows are videos."""
    rows = [case.tensors[f"in.X{i}"] for i in range(sum(name.startswith("in.X") for name in case.tensors))]
    frames = [row.transpose(0, 1) if row.dim() == 4 else row[None] for row in rows]
    return (
        torch.cat(frames),
        torch.tensor([len(one) for one in frames]),
        torch.tensor([row.dim() == 4 for row in rows]),
    )
