"""Pretrained parts that training starts from: LongVU's, and what the recipes of all families share.

The published recipes join a language model and towers, as their authors publish them, by parts that are new. A
:class:`Recipe` says which; :mod:`longvu_model.starting_point` follows it. Sizes are those of the parts' own
``config.json``; grids, lengths and the connector's shape are a preset's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, ProcessorMixin

from longvu_model import official, presets
from longvu_model.checkpoint_files import CheckpointError, read_state
from longvu_model.checkpoint_names import LANGUAGE_NAMES, LANGUAGE_UNUSED
from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor

# Llama 3.2's scaling is left out, as in the release, whose library refused it.
_ROPE_TYPES = ("default", "llama3")

Parts = Mapping[str, Path]
"""Folders and files of parts by name."""


@dataclass(frozen=True)
class Recipe:
    """What a family is made of before its first stage.

    Attributes:
        model_class: of the family.
        presets: what makes the shape, by name; a preset's sizes of parts that have a ``config.json`` are not used.
        parts: what each is, by name.
        read: a shape and its parts -> the configuration, and all pretrained tensors under our names.
        processor: a configuration and its parts -> tokenizers, chat format, preprocessing.
        new: modules of the model that start from random weights.
        has: whether a shape has a part of that name.
    """

    model_class: Any
    presets: dict[str, Callable[[], Any]]
    parts: Mapping[str, str]
    read: Callable[[Any, Parts], tuple[Any, dict[str, Tensor]]]
    processor: Callable[[Any, Parts], ProcessorMixin]
    new: tuple[str, ...]
    has: Callable[[Any, str], bool] = lambda shape, part: True


def language_config(folder: Path, shape: Any, kinds: Sequence[str] = ()) -> Any:
    """A language model's configuration from its folder; its positions are not scaled.

    Args:
        shape: configuration of the library's class that is wanted.
        kinds: other model types whose ``config.json`` has the same fields.

    Raises:
        CheckpointError: another model, or one whose positions were stretched already.
    """
    given = json.loads((folder / "config.json").read_text())
    allowed = (shape.model_type, *kinds)
    if given.get("model_type") not in allowed:
        raise CheckpointError(
            f"{folder}: model_type={given.get('model_type')!r}: the preset is made for {' or '.join(allowed)}"
        )
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in _ROPE_TYPES:
        raise CheckpointError(f"{folder}: {rope_type} scaling of positions: give the language model without it")
    own = {key: value for key, value in given.items() if key in own_fields(type(shape)) - {"rope_parameters"}}
    theta = rope.get("rope_theta", given.get("rope_theta", 10000.0))
    return type(shape)(**own, rope_parameters={"rope_type": "default", "rope_theta": theta})


def language_state(folder: Path, unused: Sequence[str] = ()) -> dict[str, Tensor]:
    """A language model's tensors under our names.

    Args:
        unused: patterns of further names that are left out.

    Raises:
        CheckpointError: the folder holds names that are not known.
    """
    return read_state(folder, LANGUAGE_NAMES, (*LANGUAGE_UNUSED, *unused))


def own_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """Fields of a configuration that not every model of the library has."""
    return {field.name for field in fields(config_class)} - {field.name for field in fields(PreTrainedConfig)}


def with_configs(shape: Any, **changes: Any) -> Any:
    """A shape with other fields, such as the configurations of its parts."""
    return type(shape)(**{**shape.to_dict(), "tie_word_embeddings": None, **changes})


def _read(shape: LongVUConfig, parts: Parts) -> tuple[LongVUConfig, dict[str, Tensor]]:
    config = with_configs(
        shape,
        text_config=language_config(parts["language_model"], shape.text_config),
        siglip_config=official.tower_config(parts["siglip"]),
        dino_config=official.tower_config(parts["dinov2"]),
    )
    return config, language_state(parts["language_model"]) | official.read_towers(parts["siglip"], parts["dinov2"])


def _processor(config: LongVUConfig, parts: Parts) -> LongVUProcessor:
    return LongVUProcessor.from_config(config, AutoTokenizer.from_pretrained(parts["language_model"]))


RECIPE = Recipe(
    LongVUForConditionalGeneration,
    {name: partial(make, "image") for name, make in presets.PRESETS.items()},
    {
        "language_model": "folder or hub id of Qwen2-7B-Instruct or Llama-3.2-3B-Instruct",
        "siglip": "folder or hub id of siglip-so400m-patch14-384",
        "dinov2": "folder or hub id of dinov2-giant",
    },
    _read,
    _processor,
    new=("aggregator", "frame_tokens"),
)
