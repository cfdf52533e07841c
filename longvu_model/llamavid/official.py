"""Published LLaMA-VID checkpoints: reading and writing their layout (SEMANTICS sections 7, 8).

A published checkpoint is a folder with ``config.json`` (``model_type`` llava, with a ``bert_type``) and everything but
the tower's shape in sharded ``.safetensors`` or ``.bin`` files. The release takes the tower from the EVA-G file that
the configuration names and ignores the copy in the checkpoint; here that copy is read unless ``tower`` names a file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, LlamaConfig, PreTrainedConfig

from longvu_model.checkpoint_files import (
    CheckpointError,
    compare_state,
    local_folder,
    read_torch_file,
    rename_state,
    tensors,
    write,
)
from longvu_model.checkpoint_names import rename
from longvu_model.llamavid import checkpoint_names as names
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.positions import context_length
from longvu_model.llamavid.towers import resize_position_table

# Ours, absent from released files: what the release has as constants of its code, or takes from a file beside.
_SEMANTICS_FIELD = "llamavid_semantics"
_TOWER_FIELD, _QFORMER_FIELD = "llamavid_tower", "llamavid_qformer"
_HEAD_WIDTH = 88  # of EVA-G
_GUIDE_LENGTH = 256  # of guiding texts, in word pieces
_TOWER = "model.tower."

Named = list[tuple[str, Tensor]]
"""Names and tensors of a checkpoint."""


def is_published(source: str | Path) -> bool:
    """Whether a folder or hub id holds a checkpoint in the published layout."""
    config, _ = PreTrainedConfig.get_config_dict(source)
    return is_published_config(config)


def is_published_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is one of LLaMA-VID's; other models of the LLaVA line share its ``model_type``."""
    return config.get("model_type") == "llava" and "bert_type" in config


def load(
    source: str | Path,
    *,
    tower: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> LlamaVidForConditionalGeneration:
    """Loads a checkpoint in the published layout; released ones compute under published semantics.

    Args:
        source: folder or hub id.
        tower: the EVA-G file (``eva_vit_g.pth``), used instead of the checkpoint's copy.
        overrides: fields of the published ``config.json`` to change first, e.g. ``{"compress_type": "grid:2"}``.
        kwargs: passed to ``from_pretrained`` (``dtype``, ``device_map``, ``quantization_config`` ...).

    Raises:
        CheckpointError: the configuration is not supported, or tensors are missing, surplus or misshapen.
        FileNotFoundError: a folder or its files do not exist.
    """
    folder = local_folder(source)
    published = {**json.loads((folder / "config.json").read_text()), **(overrides or {})}
    config, state = read(published, list(tensors(folder)), source, tower)
    kwargs.setdefault("dtype", "auto")
    return LlamaVidForConditionalGeneration.from_pretrained(None, config=config, state_dict=state, **kwargs)


def read_config(source: str | Path) -> LlamaVidConfig:
    """The configuration of a checkpoint in the published layout; of its weights only the shapes are looked at.

    Raises:
        CheckpointError: the configuration is not supported.
        FileNotFoundError: a folder or its files do not exist.
    """
    folder = local_folder(source)
    own, rest = _parts(list(tensors(folder)))
    return config_from_published(json.loads((folder / "config.json").read_text()), dict(rest), dict(own))


def read(
    published: Mapping[str, Any], named: Named, source: str | Path, tower: str | Path | None = None
) -> tuple[LlamaVidConfig, dict[str, Tensor]]:
    """Configuration and tensors of a checkpoint under our names, checked against each other.

    Args:
        published: its ``config.json``.
        named: its tensors.
        source: what an error names.
        tower: as in :func:`load`.

    Raises:
        CheckpointError: as in :func:`load`.
    """
    own, rest = _parts(named)
    if tower is not None:
        own = list(read_torch_file(Path(tower)).items())
    if not own:
        raise CheckpointError(f"{source} holds no tower ({names.TOWER_PREFIX}*): give tower=<path of eva_vit_g.pth>")
    config = config_from_published(published, dict(rest), dict(own))
    state = rename_state(rest, names.MODEL_NAMES, names.MODEL_UNUSED, source)
    state |= tower_state(config, own, tower or source)
    check_state(config, state, source)
    return config, state


def _parts(named: Named) -> tuple[Named, Named]:
    """The tower's tensors without their prefix, and all others."""
    own = [(name.removeprefix(names.TOWER_PREFIX), t) for name, t in named if name.startswith(names.TOWER_PREFIX)]
    return own, [(name, t) for name, t in named if not name.startswith(names.TOWER_PREFIX)]


def tower_state(config: LlamaVidConfig, named: Named, source: str | Path) -> dict[str, Tensor]:
    """The tower's tensors, their names without prefix, under our names.

    Raises:
        CheckpointError: there are names that are not known.
    """
    return rename_state(_tower(config, named), names.TOWER_NAMES, names.TOWER_UNUSED, source, target=_TOWER)


def _tower(config: LlamaVidConfig, named: Named) -> Iterator[tuple[str, Tensor]]:
    """The tower's tensors, without blocks that are not used, its positions for the model's grid."""
    depth = config.vision_config.num_hidden_layers
    for name, tensor in names.split_qkv(named):
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is None or int(block[1]) < depth:
            yield name, resize_position_table(tensor, config.grid) if name == "pos_embed" else tensor


def export(model: LlamaVidForConditionalGeneration, folder: str | Path, max_shard_size: str = "5GB") -> None:
    """Writes a model in the published layout, its tower among the rest.

    Corrected semantics, and shapes that the released code has as constants, are noted in fields that :func:`load`
    honours; the released code ignores them.
    """
    write(Path(folder), config_to_published(model.config), published_state(model.state_dict()), max_shard_size)


def published_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their published names."""
    renamed = {}
    for name, tensor in state.items():
        published = published_name(name)
        assert published is not None, f"no published name for {name}"
        renamed[published] = tensor.detach().cpu().contiguous()
    return names.join_qkv(renamed)


def published_name(name: str) -> str | None:
    """The published name of a parameter; the tower's joint matrix goes by three names."""
    if not name.startswith(_TOWER):
        return rename(name, names.MODEL_NAMES, to_published=True)
    inside = rename(name.removeprefix(_TOWER), names.TOWER_NAMES, to_published=True)
    return None if inside is None else names.TOWER_PREFIX + inside


def check_state(config: LlamaVidConfig, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Compares names and shapes with those of the model.

    Raises:
        CheckpointError: naming every kind of difference, under published names.
    """
    with torch.device("meta"):
        expected = LlamaVidForConditionalGeneration(config).state_dict()
    optional = ["lm_head.weight"] if config.tie_word_embeddings else []
    compare_state(expected, state, source, lambda name: published_name(name) or name, optional)


def config_from_published(
    published: Mapping[str, Any], state: Mapping[str, Tensor], tower: Mapping[str, Tensor]
) -> LlamaVidConfig:
    """Our configuration for a published ``config.json``; shapes that it does not name are those of the tensors.

    Args:
        state: tensors under published names, without the tower's.
        tower: tensors of the tower, without prefix.

    Raises:
        CheckpointError: a field or tensor is missing or has a value that no published model uses.
    """
    if not is_published_config(published):
        raise CheckpointError(
            f"model_type={published.get('model_type')!r}, bert_type={published.get('bert_type')!r}: not a published "
            "LLaMA-VID model"
        )
    kind = str(published["bert_type"])
    if "qformer" not in kind or ":" in kind:
        raise CheckpointError(f"bert_type={kind!r}: only Q-Formers are supported")
    for field, expected in (
        ("mm_projector_type", "mlp2x_gelu"),
        ("mm_vision_select_feature", "patch"),
        ("mm_use_im_start_end", False),
    ):
        if published.get(field, expected) != expected:
            raise CheckpointError(f"{field}={published[field]!r}: only {expected!r} is supported")
    try:
        vision = _vision_config(published, tower)
        qformer = _qformer_config(published, state, vision.hidden_size)
        num_queries = published.get("num_query", state["model.vlm_att_query"].shape[1])
    except KeyError as error:
        raise CheckpointError(f"no tensor {error.args[0]!r}, which a published LLaMA-VID model has") from None
    known = {field.name for field in fields(LlamaConfig)} - {"rope_parameters"}
    text = {key: value for key, value in published.items() if key in known}
    scaling = published.get("rope_scaling") or {}
    rope = {
        "rope_type": scaling.get("type", scaling.get("rope_type", "default")),
        "rope_theta": published.get("rope_theta", 10000.0),
        **{key: value for key, value in scaling.items() if key not in ("type", "rope_type")},
    }
    text_config = LlamaConfig(**text, rope_parameters=rope)
    return LlamaVidConfig(
        text_config=text_config,
        vision_config=vision,
        qformer_config=qformer,
        num_queries=num_queries,
        image_norm="pretrain" in kind,
        compress_type=published.get("compress_type") or "none",
        guide_length=min(_GUIDE_LENGTH, qformer.max_position_embeddings),
        max_sequence_length=published.get("max_token") or context_length(text_config),
        semantics=published.get(_SEMANTICS_FIELD, "published"),
    )


def _vision_config(published: Mapping[str, Any], tower: Mapping[str, Tensor]) -> InstructBlipVisionConfig:
    width, _, patch_size, _ = tower["patch_embed.proj.weight"].shape
    own = published.get(_TOWER_FIELD, {})
    side = math.isqrt(tower["pos_embed"].shape[1] - 1) * patch_size
    named = re.search(r"(\d{3})", str(published.get("image_processor") or ""))
    blocks = {int(name.split(".")[1]) for name in tower if name.startswith("blocks.")}
    fields_of_own = {
        "num_attention_heads": width // _HEAD_WIDTH or 1,
        "image_size": int(named[1]) if named else side,
        # The last of EVA-G's forty blocks is left out.
        "num_hidden_layers": min(len(blocks), 39),
        **own,
    }
    return InstructBlipVisionConfig(
        hidden_size=width,
        intermediate_size=tower["blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=patch_size,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
        **fields_of_own,
    )


def _qformer_config(
    published: Mapping[str, Any], state: Mapping[str, Tensor], tower_width: int
) -> InstructBlipQFormerConfig:
    bert = "model.vlm_att_encoder.bert."
    words, positions = (
        state[f"{bert}embeddings.word_embeddings.weight"],
        state[f"{bert}embeddings.position_embeddings.weight"],
    )
    layers = {
        int(name.removeprefix(f"{bert}encoder.layer.").split(".")[0]) for name in state if ".encoder.layer." in name
    }
    projection = state.get("model.vlm_att_bert_proj.weight")
    return InstructBlipQFormerConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        intermediate_size=state[f"{bert}encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=positions.shape[0],
        encoder_hidden_size=tower_width if projection is None else projection.shape[0],
        **{"num_attention_heads": 12, "layer_norm_eps": 1e-12, **published.get(_QFORMER_FIELD, {})},
    )


def config_to_published(config: LlamaVidConfig) -> dict[str, Any]:
    """The published ``config.json`` of a model; fields without effect on inference carry their released values."""
    own = {field.name for field in fields(LlamaConfig)} - {field.name for field in fields(PreTrainedConfig)}
    text = {key: value for key, value in config.text_config.to_dict().items() if key in own}
    for key in ("rope_parameters", "layer_types"):  # newer than the release
        text.pop(key, None)
    rope = config.text_config.rope_parameters
    scaling = None if rope["rope_type"] == "default" else {"type": rope["rope_type"], "factor": rope["factor"]}
    vision, qformer = config.vision_config, config.qformer_config
    return {
        **text,
        "model_type": "llava",
        "architectures": ["LlavaLlamaAttForCausalLM"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": scaling,
        "torch_dtype": str(config.dtype or torch.float32).removeprefix("torch."),
        "bert_type": "qformer_pretrain" if config.image_norm else "qformer",
        "num_query": config.num_queries,
        "compress_type": None if config.compress_type == "none" else config.compress_type,
        "max_token": config.max_sequence_length,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "eva_vit_g.pth",
        "image_processor": f"clip-patch{vision.patch_size}-{vision.image_size:03d}",
        "image_aspect_ratio": "pad",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "use_mm_proj": True,
        _SEMANTICS_FIELD: config.semantics,
        _TOWER_FIELD: {
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size,
            "num_hidden_layers": vision.num_hidden_layers,
        },
        _QFORMER_FIELD: {"num_attention_heads": qformer.num_attention_heads, "layer_norm_eps": qformer.layer_norm_eps},
    }
