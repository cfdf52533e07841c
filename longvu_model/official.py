"""Published LongVU checkpoints: reading and writing their layout (SEMANTICS sections 1, 3, 18).

A published checkpoint is a folder with ``config.json`` (``model_type`` cambrian_qwen or cambrian_llama) and the
language model and connector in sharded ``.safetensors`` or ``.bin`` files. The towers are separate checkpoints of the
``transformers`` library; they are looked for in ``siglip`` and ``dinov2`` below the folder, else fetched from the hub.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, LlamaConfig, PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from longvu_model import checkpoint_names as names
from longvu_model.checkpoint_files import CheckpointError, compare_state, local_folder, read_state, write
from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.semantics import PUBLISHED

SIGLIP_HUB_ID = "google/siglip-so400m-patch14-384"
DINO_HUB_ID = "facebook/dinov2-giant"

_TEXT_CONFIGS = {"cambrian_qwen": Qwen2Config, "cambrian_llama": LlamaConfig}
_SEMANTICS_FIELD = "longvu_semantics"  # ours; absent from released files
_AGGREGATOR_HEADS = 16  # fixed in the release


def is_published(source: str | Path) -> bool:
    """Whether a folder or hub id holds a checkpoint in the published layout."""
    config, _ = PreTrainedConfig.get_config_dict(source)
    return config.get("model_type") in _TEXT_CONFIGS


def load(
    source: str | Path,
    *,
    siglip: str | Path | None = None,
    dino: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> LongVUForConditionalGeneration:
    """Loads a checkpoint in the published layout; released ones compute under published semantics.

    Args:
        source: folder or hub id.
        siglip, dino: folder or hub id of each tower.
        overrides: fields of the published ``config.json`` to change first, e.g. ``{"drop_threshold": 0.65}``.
        kwargs: passed to ``from_pretrained`` (``dtype``, ``device_map``, ``quantization_config`` ...).

    Raises:
        CheckpointError: the configuration is not supported, or tensors are missing, surplus or misshapen.
        FileNotFoundError: a folder or its files do not exist.
    """
    config = read_config(source, siglip=siglip, dino=dino, overrides=overrides)
    folder = local_folder(source)
    siglip_folder = _tower_folder(siglip, folder / "siglip", SIGLIP_HUB_ID)
    dino_folder = _tower_folder(dino, folder / "dinov2", DINO_HUB_ID)
    state = {
        **read_state(folder, names.MODEL_NAMES, names.MODEL_UNUSED),
        **read_towers(siglip_folder, dino_folder),
    }
    check_state(config, state, source)
    kwargs.setdefault("dtype", "auto")
    return LongVUForConditionalGeneration.from_pretrained(None, config=config, state_dict=state, **kwargs)


def read_towers(siglip: Path, dino: Path) -> dict[str, Tensor]:
    """Tensors of the towers' own checkpoints under our names.

    Raises:
        CheckpointError: a folder holds names that are not known.
    """
    return {
        **read_state(siglip, names.SIGLIP_NAMES, names.SIGLIP_UNUSED, target="model.towers.siglip."),
        **read_state(dino, names.DINO_NAMES, names.DINO_UNUSED, "dinov2.", "model.towers.dino."),
    }


def read_config(
    source: str | Path,
    *,
    siglip: str | Path | None = None,
    dino: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> LongVUConfig:
    """The configuration of a checkpoint in the published layout, without its weights; arguments as of :func:`load`.

    Raises:
        CheckpointError: the configuration is not supported.
        FileNotFoundError: a folder or its files do not exist.
    """
    folder = local_folder(source)
    published = {**json.loads((folder / "config.json").read_text()), **(overrides or {})}
    siglip_folder = _tower_folder(siglip, folder / "siglip", SIGLIP_HUB_ID)
    dino_folder = _tower_folder(dino, folder / "dinov2", DINO_HUB_ID)
    return config_from_published(published, tower_config(siglip_folder), tower_config(dino_folder))


def export(model: LongVUForConditionalGeneration, folder: str | Path, max_shard_size: str = "5GB") -> None:
    """Writes a model in the published layout, its towers in the library's layout below it.

    The unused parts of the towers (SigLIP's pooling head, DINOv2's mask token) are not part of a LongVU model and are
    not written. Corrected semantics are noted in a field that :func:`load` honours; the released code ignores it and
    always computes as published.

    Raises:
        CheckpointError: the model cannot be expressed in the published layout.
    """
    folder = Path(folder)
    config = model.config
    state = model.state_dict()
    write(folder, config_to_published(config), _published_state(state, "", names.MODEL_NAMES), max_shard_size)
    siglip = {**config.siglip_config.to_dict(), "vision_use_head": False}
    write(
        folder / "siglip",
        siglip,
        _published_state(state, "model.towers.siglip.", names.SIGLIP_NAMES),
        max_shard_size,
    )
    dino = config.dino_config.to_dict()
    write(folder / "dinov2", dino, _published_state(state, "model.towers.dino.", names.DINO_NAMES), max_shard_size)


def config_from_published(published: Mapping[str, Any], siglip: Any, dino: Any) -> LongVUConfig:
    """Our configuration for a published ``config.json`` and the library configurations of the two towers.

    Raises:
        CheckpointError: a field is missing or has a value that no published model uses.
    """
    kind = published.get("model_type")
    if kind not in _TEXT_CONFIGS:
        raise CheckpointError(f"model_type={kind!r} is not a published LongVU model; expected {list(_TEXT_CONFIGS)}")
    for field, expected in (("mm_projector_type", "sva"), ("connector_only", True)):
        if published.get(field) != expected:
            raise CheckpointError(f"{field}={published.get(field)!r}: only {expected!r} is supported")
    if published.get("mm_vision_select_feature", "patch") != "patch" or published.get("mm_use_im_start_end", False):
        raise CheckpointError("only mm_vision_select_feature='patch' and mm_use_im_start_end=false are supported")
    try:
        token_counts = published["mm_vision_tower_aux_token_len_list"]
        query_counts = published["query_num_list"]
        full_tokens = published["image_token_len"]
        vision_width, depth = published["vision_hidden_size"], published["connector_depth"]
    except KeyError as error:
        raise CheckpointError(f"config.json lacks {error.args[0]!r}, which a published LongVU model needs") from None
    if len(set(token_counts)) != 1:
        raise CheckpointError(f"mm_vision_tower_aux_token_len_list={token_counts}: towers must share one grid")
    config_class = _TEXT_CONFIGS[kind]
    known = {field.name for field in fields(config_class)} - {"rope_parameters"}
    text = {key: value for key, value in published.items() if key in known}
    # the release forces Qwen2's scaling to none
    scaling = {} if kind == "cambrian_qwen" else published.get("rope_scaling") or {}
    rope = {"rope_type": "default", "rope_theta": published.get("rope_theta", 10000.0), **scaling}
    drop_threshold = published.get("drop_threshold")
    return LongVUConfig(
        text_config=config_class(**text, rope_parameters=rope),
        siglip_config=siglip,
        dino_config=dino,
        dino_image_size=_dino_image_size(published, dino),
        token_grid=math.isqrt(token_counts[0]),
        query_grids=[math.isqrt(count) for count in query_counts],
        full_grid=math.isqrt(full_tokens),
        low_grid=published.get("lowres_token", 8),
        mixed_resolution=published.get("highres", False),
        vision_hidden_size=vision_width,
        connector_depth=depth,
        frame_pos=published.get("frame_pos", False),
        dino_threshold=published.get("dino_threshold", 0.83),
        drop_threshold=PUBLISHED.default_drop_threshold if drop_threshold is None else drop_threshold,
        max_sequence_length=published.get("tokenizer_model_max_length"),
        answer_reserve=published.get("inference_max_length") or 16,
        padding_side=published.get("tokenizer_padding_side", "right"),
        semantics=published.get(_SEMANTICS_FIELD, "published"),
    )


def config_to_published(config: LongVUConfig) -> dict[str, Any]:
    """The published ``config.json`` of a model; fields without effect on inference carry their released values.

    Raises:
        CheckpointError: the configuration cannot be expressed in published fields.
    """
    if config.aggregator_heads != _AGGREGATOR_HEADS:
        raise CheckpointError(
            f"aggregator_heads={config.aggregator_heads}: the published layout has no field for it, only "
            f"{_AGGREGATOR_HEADS} heads can be exported"
        )
    own = {field.name for field in fields(config.text_config)} - {field.name for field in fields(PreTrainedConfig)}
    text = {key: value for key, value in config.text_config.to_dict().items() if key in own}
    for key in ("rope_parameters", "layer_types"):  # newer than the release, which writes rope_theta
        text.pop(key, None)
    llama = config.text_config.model_type == "llama"
    rope = config.text_config.rope_parameters
    return {
        **text,
        "model_type": "cambrian_llama" if llama else "cambrian_qwen",
        "architectures": ["CambrianLlamaForCausalLM" if llama else "CambrianQwenForCausalLM"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "torch_dtype": str(config.dtype or torch.float32).removeprefix("torch."),
        "mm_vision_tower_aux_list": [
            f"siglip/CLIP-ViT-SO400M-{config.siglip_config.patch_size}-{config.siglip_config.image_size}",
            f"facebook/dinov2-giant-res{config.dino_image_size}",
        ],
        "mm_vision_tower_aux_token_len_list": [config.token_grid**2] * 2,
        "vision_tower_aux_token_len_list": [config.token_grid**2] * 2,
        "mm_projector_type": "sva",
        "vision_hidden_size": config.vision_hidden_size,
        "num_query_group": len(config.query_grids),
        "query_num_list": [grid**2 for grid in config.query_grids],
        "image_token_len": config.full_grid**2,
        "connector_only": True,
        "connector_depth": config.connector_depth,
        "num_of_vision_sampler_layers": 10,
        "start_of_vision_sampler_layers": 0,
        "stride_of_vision_sampler_layers": 3,
        "highres": config.mixed_resolution,
        "lowres_token": config.low_grid,
        "frame_pos": config.frame_pos,
        "dino_threshold": config.dino_threshold,
        "drop_threshold": config.drop_threshold,
        "tokenizer_model_max_length": config.max_sequence_length,
        "inference_max_length": config.answer_reserve,
        "tokenizer_padding_side": config.padding_side,
        "image_aspect_ratio": "pad",
        "image_position": 91,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "is_image_newline": True,
        "is_st_sampler": False,
        "highres_connect": False,
        "connect_layer": 2,
        "unfreeze_mm_vision_tower": False,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "use_mm_proj": True,
        _SEMANTICS_FIELD: config.semantics,
    }


def check_state(config: LongVUConfig, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Compares names and shapes with those of the model.

    Raises:
        CheckpointError: naming every kind of difference, under published names.
    """
    with torch.device("meta"):
        expected = LongVUForConditionalGeneration(config).state_dict()
    optional = ["lm_head.weight"] if config.tie_word_embeddings else []
    compare_state(expected, state, source, _published_name, optional)


def _published_name(name: str) -> str:
    for prefix, pairs in (("model.towers.siglip.", names.SIGLIP_NAMES), ("model.towers.dino.", names.DINO_NAMES)):
        if name.startswith(prefix):
            return f"{prefix}{names.rename(name.removeprefix(prefix), pairs, to_published=True)}"
    return names.rename(name, names.MODEL_NAMES, to_published=True) or name


def _tower_folder(given: str | Path | None, beside: Path, hub_id: str) -> Path:
    if given is not None:
        return local_folder(given)
    return beside if beside.is_dir() else local_folder(hub_id)


def tower_config(folder: Path) -> SiglipVisionConfig | Dinov2Config:
    """The configuration of a tower's own checkpoint.

    Raises:
        CheckpointError: it is another model's.
    """
    config = json.loads((folder / "config.json").read_text())
    config = config.get("vision_config", config)
    classes = {"siglip_vision_model": SiglipVisionConfig, "siglip": SiglipVisionConfig, "dinov2": Dinov2Config}
    kind = config.get("model_type")
    if kind not in classes:
        raise CheckpointError(f"{folder}: model_type={kind!r} is not a tower; expected {sorted(classes)}")
    return classes[kind](**{key: value for key, value in config.items() if key != "model_type"})


def _dino_image_size(published: Mapping[str, Any], dino: Any) -> int:
    """The input side is written into the tower's name ("...-res378"); without it, the size of the position table."""
    match = re.search(r"-res(\d+)$", published["mm_vision_tower_aux_list"][1])
    return int(match[1]) if match else dino.image_size


def _published_state(state: Mapping[str, Tensor], prefix: str, pairs: Sequence[names.NamePair]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(prefix) and (prefix or not name.startswith("model.towers.")):
            published = names.rename(name.removeprefix(prefix), pairs, to_published=True)
            assert published is not None, f"no published name for {name}"
            renamed[published] = tensor.detach().cpu().contiguous()
    return renamed
