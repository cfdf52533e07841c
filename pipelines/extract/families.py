"""Model families as extraction sees them: which features a frame can have, and the towers that give them.

Each family has a file of its own, ``<family>_features.py``, with a :class:`Family` named ``FAMILY``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipelines.errors import UserError

if TYPE_CHECKING:
    from longvu_model.tower_pixels import TowerPixels
    from longvu_model.towers import Tower

Kind = Literal["video", "image"]

VIT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "patch_size",
    "image_size",
)
"""What decides the shape of an ordinary vision transformer, by its names in the configuration."""


class FramePixels(Protocol):
    """What a tower is fed that takes more than 8-bit squares; made of whole frames."""

    @property
    def size(self) -> int:
        """Side of the tower's input in pixels."""

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the pixels, as a record to hash."""

    def normalized(self, frames_THWC: np.ndarray) -> np.ndarray:
        """Frames uint8 (T, H, W, 3) -> float32 (T, 3, size, size)."""


@dataclass(frozen=True)
class Feature:
    """A column of features and the towers behind it, as functions of the model's configuration.

    Args:
        name: of the column.
        prefix: of its tensors' names in a checkpoint.
        shape: tokens and channels of a frame.
        facts: what decides the numbers beside weights and pixels, without what a library's version adds.
        pixels: what the tower is fed of videos' frames, or of pictures.
        tower: the tower of videos, or of pictures; ``encode`` gives what is stored.
        part: what the names of this tower's tensors begin with behind the prefix.
        optional: stored only if it is asked for.
    """

    name: str
    prefix: str
    shape: Callable[[Any], tuple[int, int]]
    facts: Callable[[Any], dict[str, Any]]
    pixels: Callable[[Any, Kind], TowerPixels | FramePixels]
    tower: Callable[[Any, Kind], Tower]
    part: Callable[[Any, Kind], str] = lambda config, kind: ""
    optional: bool = False


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Args:
        name: for people.
        config_class: of its configuration in our layout.
        official: name of the module that reads checkpoints in the published layout; it imports the whole model.
        features: in the order of their columns.
    """

    name: str
    config_class: Any
    official: str
    features: tuple[Feature, ...]

    def feature(self, name: str) -> Feature:
        """The feature of that name.

        Raises:
            UserError: the family has none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise UserError(f"{self.name} has no {name} tower, it has {', '.join(one.name for one in self.features)}")

    def chosen(self, *optional: str) -> tuple[str, ...]:
        """Names of the features that are always stored, and of these others.

        Raises:
            UserError: the family lacks one.
        """
        wanted = {self.feature(name).name for name in optional}
        return tuple(one.name for one in self.features if not one.optional or one.name in wanted)

    def is_published(self, folder: Path) -> bool:
        """Whether a checkpoint of this family is in the published layout."""
        found = json.loads((folder / "config.json").read_text())
        return bool(found.get("model_type") != self.config_class.model_type)

    def read_config(self, folder: Path) -> Any:
        """The configuration of a checkpoint of this family, in either layout, without its weights."""
        if self.is_published(folder):
            return import_module(self.official).read_config(folder)
        return self.config_class.from_pretrained(folder)


def family(name: str) -> Family:
    """The family of that name: longvu, llamavid or videollamb."""
    found: Family = import_module(f"pipelines.extract.{name}_features").FAMILY
    return found


def family_name(config: Mapping[str, Any], source: str | Path) -> str:
    """The family of a ``config.json``, in either layout.

    Raises:
        UserError: an unknown one.
    """
    from pipelines.video_models.loading import family_of  # needs torch

    return family_of(config, source)
