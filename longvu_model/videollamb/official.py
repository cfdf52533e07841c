"""Published VideoLLaMB checkpoints: reading and writing their layout (SEMANTICS section 12).

A published checkpoint is a folder with ``config.json`` (``mm_projector_type`` rmt_r_transformer1x) and everything but
the towers' shapes in sharded ``.safetensors`` or ``.bin`` files. The release takes the towers from the LanguageBind
checkpoints that the configuration names and ignores the copies in the checkpoint; here those copies are read unless
folders are given.

Tensors that take no part in the computation (the unused attention blocks, memory tokens, last layers and norms of the
towers) are accepted and left out; written checkpoints hold zeros for them, so that the released code finds them all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from longvu_model.checkpoint_files import CheckpointError, compare_state, local_folder, rename_state, tensors, write
from longvu_model.checkpoint_names import rename
from longvu_model.videollamb import checkpoint_names as names
from longvu_model.videollamb.bridge import SCENE_NUMBERS
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from longvu_model.videollamb.towers import num_blocks

# Ours, absent from released files: what the release has as constants of its code, or takes from files beside.
_OWN_FIELD = "videollamb"
_OWN_FIELDS = (
    "semantics",
    "visible",
    "pool_grid",
    "num_scenes",
    "boundary_alpha",
    "max_boundaries",
    "scene_frames",
    "per_scene_loss",
    "prompt_style",
    "temporal_window",
)
_PROJECTOR = re.compile(r"rmt(_r)?_transformer(\d+)x")
_HEAD_WIDTH = 64  # of ViT-L
# What the two published models differ in beside their tensors.
_BASE = {"visible": "last_scene", "pool_grid": 12, "num_scenes": 4, "max_boundaries": 15}
_MEM = {"visible": "memory", "pool_grid": 14, "num_scenes": None, "max_boundaries": 7}


def is_published(source: str | Path) -> bool:
    """Whether a folder or hub id holds a checkpoint in the published layout."""
    config, _ = PreTrainedConfig.get_config_dict(source)
    return is_published_config(config)


def is_published_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is one of VideoLLaMB's; other models of the LLaVA line share its ``model_type``."""
    return _PROJECTOR.fullmatch(str(config.get("mm_projector_type"))) is not None


def load(
    source: str | Path,
    *,
    image_tower: str | Path | None = None,
    video_tower: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VideoLLaMBForConditionalGeneration:
    """Loads a checkpoint in the published layout; released ones compute under published semantics.

    Args:
        source: folder or hub id.
        image_tower, video_tower: LanguageBind checkpoints, used instead of the copies in the checkpoint.
        overrides: fields of the published ``config.json`` to change first, e.g. ``{"num_frames": 32}``.
        kwargs: passed to ``from_pretrained`` (``dtype``, ``device_map``, ``quantization_config`` ...).

    Raises:
        CheckpointError: the configuration is not supported, or tensors are missing, surplus or misshapen.
        FileNotFoundError: a folder or its files do not exist.
    """
    folder = local_folder(source)
    published = {**json.loads((folder / "config.json").read_text()), **(overrides or {})}
    named = _named(folder)
    for tower, prefix in ((image_tower, names.IMAGE_TOWER_PREFIX), (video_tower, names.VIDEO_TOWER_PREFIX)):
        if tower is not None:
            named = {name: tensor for name, tensor in named.items() if not name.startswith(prefix)}
            named |= read_tower(local_folder(tower), prefix)
    config, state = read(published, named, source)
    kwargs.setdefault("dtype", "auto")
    return VideoLLaMBForConditionalGeneration.from_pretrained(None, config=config, state_dict=state, **kwargs)


def read_config(source: str | Path) -> VideoLLaMBConfig:
    """The configuration of a checkpoint in the published layout; of its weights only the shapes are looked at.

    Raises:
        CheckpointError: the configuration is not supported.
        FileNotFoundError: a folder or its files do not exist.
    """
    folder = local_folder(source)
    return config_from_published(json.loads((folder / "config.json").read_text()), _named(folder))


def _named(folder: Path) -> dict[str, Tensor]:
    # The library has written CLIP towers both with and without their prefix.
    return {name.replace("_tower.vision_model.", "_tower."): tensor for name, tensor in tensors(folder)}


def read_tower(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The vision half of a CLIP or LanguageBind checkpoint, its names behind a prefix."""
    return {
        prefix + name.removeprefix("vision_model."): tensor
        for name, tensor in tensors(folder)
        if not any(re.fullmatch(pattern, name) for pattern in names.TEXT_HALF)
    }


def read(
    published: Mapping[str, Any], named: Mapping[str, Tensor], source: str | Path
) -> tuple[VideoLLaMBConfig, dict[str, Tensor]]:
    """Configuration and tensors of a checkpoint under our names, checked against each other.

    Args:
        published: its ``config.json``.
        named: its tensors.
        source: what an error names.

    Raises:
        CheckpointError: as in :func:`load`.
    """
    config = config_from_published(published, named)
    state = model_state(config, named, source)
    check_state(config, state, source)
    return config, state


def model_state(config: VideoLLaMBConfig, named: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Tensors under our names, without those that nothing uses.

    Raises:
        CheckpointError: there are names that are not known.
    """
    unused = [*names.MODEL_UNUSED]
    if not config.retrieval:
        unused.append(re.escape(names.BRIDGE_PREFIX) + r"abs_vid_pe\.weight")
    state = rename_state(named.items(), names.MODEL_NAMES, unused, source)
    return {name: tensor for name, tensor in state.items() if not _behind_feature(config, name)}


def _behind_feature(config: VideoLLaMBConfig, name: str) -> bool:
    """Whether a parameter belongs to a layer of a tower behind its feature."""
    match = re.match(r"model\.towers\.(image|video)\.blocks\.(\d+)\.", name)
    if match is None:
        return False
    tower = config.image_config if match[1] == "image" or config.video_config is None else config.video_config
    return int(match[2]) >= num_blocks(tower, config.feature_layer)


def check_state(config: VideoLLaMBConfig, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Compares names and shapes with those of the model.

    Raises:
        CheckpointError: naming every kind of difference, under published names.
    """
    with torch.device("meta"):
        expected = VideoLLaMBForConditionalGeneration(config).state_dict()
    optional = ["lm_head.weight"] if config.tie_word_embeddings else []
    compare_state(expected, state, source, lambda name: published_name(name) or name, optional)


def export(model: VideoLLaMBForConditionalGeneration, folder: str | Path, max_shard_size: str = "5GB") -> None:
    """Writes a model in the published layout, its towers among the rest.

    Corrected semantics, and what the released code has as constants, are noted in a field that :func:`load` honours;
    the released code ignores it.

    Raises:
        CheckpointError: the model cannot be expressed in published fields.
    """
    state = published_state(model.config, model.state_dict())
    write(Path(folder), config_to_published(model.config), state, max_shard_size)


def published_name(name: str) -> str | None:
    """The published name of a parameter."""
    return rename(name, names.MODEL_NAMES, to_published=True)


def published_state(config: VideoLLaMBConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their published names, with zeros for those that nothing uses."""
    renamed = {}
    for name, tensor in state.items():
        published = published_name(name)
        assert published is not None, f"no published name for {name}"
        renamed[published] = tensor.detach().cpu().contiguous()
    return {**renamed, **_unused_state(config, renamed)}


def _unused_state(config: VideoLLaMBConfig, used: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros, in the shapes of their likes that are used."""
    prefix = names.BRIDGE_PREFIX
    likes = {f"{prefix}projector.memory_tokens": f"{prefix}projector.read_memory_emb"}
    for name in used:
        if re.match(re.escape(prefix) + r"projector\.layers\.\d+\.selfattention", name):
            likes[name.replace("selfattention", "crossattention")] = name
        elif name.startswith(f"{prefix}retrieval."):
            likes[name.replace("crossattention", "selfattention")] = name
    for tower, config_of in (
        (names.IMAGE_TOWER_PREFIX, config.image_config),
        (names.VIDEO_TOWER_PREFIX, config.video_config),
    ):
        if config_of is None:
            continue
        first = f"{tower}encoder.layers.0."
        for layer in range(num_blocks(config_of, config.feature_layer), config_of.num_hidden_layers):
            for name in (name for name in used if name.startswith(first)):
                likes[f"{tower}encoder.layers.{layer}.{name.removeprefix(first)}"] = name
        likes |= {f"{tower}post_layernorm.{part}": f"{tower}pre_layrnorm.{part}" for part in ("weight", "bias")}
    zeros = {name: torch.zeros_like(used[like]) for name, like in likes.items()}
    if config.visible == "memory" and not config.retrieval:
        zeros[f"{prefix}abs_vid_pe.weight"] = torch.zeros(SCENE_NUMBERS, config.width)
    return zeros


def config_from_published(published: Mapping[str, Any], named: Mapping[str, Tensor]) -> VideoLLaMBConfig:
    """Our configuration for a published ``config.json``; shapes that it does not name are those of the tensors.

    Raises:
        CheckpointError: a field or tensor is missing or has a value that no published model uses.
    """
    match = _PROJECTOR.fullmatch(str(published.get("mm_projector_type")))
    if match is None:
        raise CheckpointError(
            f"mm_projector_type={published.get('mm_projector_type')!r}: not a published VideoLLaMB model, which has "
            "rmt_r_transformer1x"
        )
    for field, expected in (("mm_hidden_act", "gelu"), ("mm_use_x_start_end", False)):
        if published.get(field, expected) != expected:
            raise CheckpointError(f"{field}={published[field]!r}: only {expected!r} is supported")
    own = dict(published.get(_OWN_FIELD, {}))
    vision = own.pop("vision", {})
    try:
        image = tower_config(_inside(named, names.IMAGE_TOWER_PREFIX), vision.get("image", {}))
        memory = named[f"{names.BRIDGE_PREFIX}projector.read_memory_emb"]
        hidden = named[f"{names.BRIDGE_PREFIX}projector.layers.0.mlp.0.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"no tensor {error.args[0]!r}, which a published VideoLLaMB model has") from None
    video = _inside(named, names.VIDEO_TOWER_PREFIX)
    known = {field.name for field in fields(LlamaConfig)} - {"rope_parameters"}
    text = {key: value for key, value in published.items() if key in known}
    rope = {"rope_type": "default", "rope_theta": published.get("rope_theta", 10000.0)}
    variant = _MEM if f"{names.BRIDGE_PREFIX}abs_vid_pe.weight" in named else _BASE
    retrieval = match[1] is not None
    return VideoLLaMBConfig(
        text_config=LlamaConfig(**text, rope_parameters=rope),
        image_config=image,
        video_config=tower_config(video, vision.get("video", {})) if video else None,
        retrieval=retrieval,
        num_memory_tokens=len(memory),
        bridge_depth=int(match[2]),
        bridge_heads=published.get("mm_num_attention_heads", 8),
        bridge_intermediate_size=hidden,
        bridge_norm_eps=published.get("mm_layer_norm_eps", 1e-12),
        bridge_dropout=published.get("mm_hidden_dropout_prob", 0.1),
        num_frames=published.get("num_frames", 16),
        max_sequence_length=published.get("tokenizer_model_max_length"),
        padding_side=published.get("tokenizer_padding_side", "right"),
        feature_layer=published.get("mm_vision_select_layer", -2),
        **{"semantics": "published", **variant, "boundary_alpha": 0.5 if retrieval else 1.0, **own},
    )


def _inside(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def tower_config(named: Mapping[str, Tensor], own: Mapping[str, Any]) -> CLIPVisionConfig:
    """The shape of a tower from its tensors; what they do not say is ViT-L's, or in ``own``."""
    width, _, patch_size, _ = named["embeddings.patch_embedding.weight"].shape
    layers = {int(name.split(".")[2]) for name in named if name.startswith("encoder.layers.")}
    side = math.isqrt(len(named["embeddings.position_embedding.weight"]) - 1)
    shape = {
        "hidden_size": width,
        "intermediate_size": named["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "image_size": side * patch_size,
        "patch_size": patch_size,
        # LanguageBind's; OpenAI's CLIP, which Mem's towers are, has quick_gelu.
        "hidden_act": "gelu"
        if "encoder.layers.0.temporal_embedding" in named or side * patch_size == 224
        else "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return CLIPVisionConfig(**{**shape, **own})


def config_to_published(config: VideoLLaMBConfig) -> dict[str, Any]:
    """The published ``config.json`` of a model; fields without effect on inference carry their released values.

    Raises:
        CheckpointError: the configuration cannot be expressed in published fields.
    """
    own = {field.name for field in fields(LlamaConfig)} - {field.name for field in fields(PreTrainedConfig)}
    text = {key: value for key, value in config.text_config.to_dict().items() if key in own}
    for key in ("rope_parameters", "layer_types"):  # newer than the release
        text.pop(key, None)
    rope = config.text_config.rope_parameters
    if rope["rope_type"] != "default":
        raise CheckpointError(f"rope_type={rope['rope_type']!r}: the published layout has no field for it")
    video = config.video_config
    return {
        **text,
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "torch_dtype": str(config.dtype or torch.float32).removeprefix("torch."),
        "X": ["IMAGE"] if video is None else ["VIDEO", "IMAGE"],
        "mm_image_tower": "LanguageBind/LanguageBind_Image",
        **({} if video is None else {"mm_video_tower": "LanguageBind/LanguageBind_Video_merge"}),
        "mm_projector_type": f"rmt{'_r' if config.retrieval else ''}_transformer{config.bridge_depth}x",
        "mm_hidden_size": config.width,
        "mm_layer_norm_eps": config.bridge_norm_eps,
        "mm_hidden_dropout_prob": config.bridge_dropout,
        "mm_attention_probs_dropout_prob": config.bridge_dropout,
        "mm_num_attention_heads": config.bridge_heads,
        "mm_intermediate_size": config.bridge_intermediate_size,
        "mm_hidden_act": "gelu",
        "mm_vision_select_layer": config.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_x_start_end": False,
        "image_aspect_ratio": "pad",
        "num_frames": config.num_frames,
        "tokenizer_model_max_length": config.max_sequence_length,
        "tokenizer_padding_side": config.padding_side,
        _OWN_FIELD: {
            **{field: getattr(config, field) for field in _OWN_FIELDS},
            "vision": {
                kind: {key: getattr(tower, key) for key in ("num_attention_heads", "hidden_act", "layer_norm_eps")}
                for kind, tower in (("image", config.image_config), ("video", video))
                if tower is not None
            },
        },
    }
