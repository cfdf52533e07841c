"""The model families that can be trained, one file each behind one interface (``base.py``).

What a sample's text is, what its media cost, how they become tensors, and what a stage does to a model is a family's;
everything else in :mod:`pipelines.train` is the same for all. The engines import these files, also where Arrow is not
installed, so they import :mod:`pipelines.store` only when they use one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

from longvu_model import register
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.videollamb.modeling import VideoLLaMBForConditionalGeneration
from pipelines.errors import UserError
from pipelines.train.families.base import Family
from pipelines.train.families.llamavid import LlamaVidFamily
from pipelines.train.families.longvu import LongVUFamily
from pipelines.train.families.videollamb import VideoLLaMBFamily

__all__ = [
    "Family",
    "LlamaVidFamily",
    "LongVUFamily",
    "TrainableModel",
    "VideoLLaMBFamily",
    "family_of",
    "family_of_folder",
]

TrainableModel: TypeAlias = (
    LongVUForConditionalGeneration | VideoLLaMBForConditionalGeneration | LlamaVidForConditionalGeneration
)

_FAMILIES: dict[str, type[Family[Any]]] = {
    family.model_class.config_class.model_type: family for family in (LongVUFamily, VideoLLaMBFamily, LlamaVidFamily)
}


register()  # so that the library's loaders of tokenizers know the models' types


def family_of(config: Any) -> type[Family[Any]]:
    """The family of a model's configuration."""
    return _FAMILIES[config.model_type]


def family_of_folder(folder: Path) -> type[Family[Any]]:
    """The family of a checkpoint folder in our layout.

    Raises:
        UserError: no such checkpoint, or one in a published layout.
    """
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind in _FAMILIES and not _FAMILIES[kind].is_published(folder):
        return _FAMILIES[kind]
    if any(family.is_published(folder) for family in _FAMILIES.values()):
        raise UserError(f"model={folder}: a checkpoint in the published layout; convert it first: longvu convert")
    raise UserError(f"model={folder}: a checkpoint of model_type {kind!r}; {', '.join(_FAMILIES)} can be trained")
