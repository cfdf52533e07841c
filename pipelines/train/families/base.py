"""What training asks of a model family.

An object holds a model's configuration, as a stage sets it, and its tokenizers. Shapes: B samples, V media.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longvu_model.config import IGNORE_INDEX
from longvu_model.labels import LabelledIds
from pipelines.train.families.work import RowWork, VisualPart
from pipelines.train.samples import MediaRef, Sample
from pipelines.train.visibility import MediumFacts

if TYPE_CHECKING:
    from pipelines.store import FeatureStore
    from pipelines.train.families.films import Films
    from pipelines.train.stages import Stage

FramesT = TypeVar("FramesT")
"""What a family keeps of one medium between reading and the model."""


@dataclass(frozen=True)
class SampleText:
    """A sample's text: ids with a negative one where a medium goes, and their labels.

    ``guides`` are word pieces (S, L) and mask of the texts that guide the eye, one for each look at a medium, where a
    family has them; with ``token_slots`` each slot takes one visual token.
    """

    input_ids: list[int]
    labels: list[int]
    guides: tuple[Tensor, Tensor] | None = None
    token_slots: bool = False

    @classmethod
    def of(cls, labelled: LabelledIds) -> SampleText:
        return cls(labelled.input_ids, labelled.labels)

    @property
    def num_text(self) -> int:
        return sum(one >= 0 for one in self.input_ids)

    @property
    def num_targets(self) -> int:
        """Labels that the loss sums over; the first token has none before it to predict it."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


@dataclass(frozen=True)
class SampleCost:
    """What a sample's media cost.

    Attributes:
        visual_tokens: of all its sequences, at most.
        frames: seen, at most.
        reduced: of each medium, whether near-duplicates are left out.
        has_room: whether the text leaves room for the media.
        sequences: in which the text is repeated.
    """

    visual_tokens: int
    frames: int
    reduced: tuple[bool, ...]
    has_room: bool = True
    sequences: int = 1


class Watcher(Protocol):
    """Takes the frames of one medium window by window."""

    def add(self, frames_FHWC: np.ndarray) -> None: ...

    def finish(self) -> Any:
        """What is kept of the medium; ``ValueError`` for one without frames."""


Watchers = Callable[[MediaRef, int, int], Watcher]
"""A watcher for a medium beside so many text tokens and, of its sample, so many media, itself included."""


class Family(ABC, Generic[FramesT]):
    """One model family, as training sees it.

    Args:
        config: the model's, as the stage sets it.
        tokenizer: of the language model.
    """

    model_class: ClassVar[Any]
    feature_names: ClassVar[tuple[str, ...]]
    """Features that a store must have."""

    def __init__(self, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    @classmethod
    def open(cls, folder: Path, config: Any, stage: Stage, films: Films | None = None) -> Self:
        """With the tokenizers of a checkpoint folder.

        Args:
            films: videos with subtitles, for a stage that reads them.
        """
        return cls(config, AutoTokenizer.from_pretrained(folder))

    @classmethod
    def is_published(cls, folder: Path) -> bool:
        """Whether a folder holds a checkpoint of this family in its published layout."""
        return bool(import_module(cls.model_class.official).is_published(folder))

    @staticmethod
    def configure(config: Any, stage: Stage) -> None:
        """What a stage changes in the configuration before a model is made of it, in place.

        Raises:
            UserError: this family has no such stage.
        """

    @staticmethod
    def prepare(model: Any, stage: Stage) -> None:
        """What a stage changes in a model beside its trained parts, in place.

        Raises:
            UserError: the model's weights do not fit the stage.
        """

    def check(self, store: FeatureStore | None) -> None:
        """Refuse what cannot be planned.

        Raises:
            UserError: a configuration without what planning needs.
            StoreError: a store without the features.
        """

    def facts(self) -> list[Any]:
        """What decides samples' texts and costs beside the configuration: goes into a manifest's key."""
        return [text_digest(self.tokenizer)]

    @abstractmethod
    def label(self, sample: Sample) -> SampleText:
        """Ids and labels of a sample, as both the manifest and the reader see it.

        Raises:
            Unusable: this family cannot learn such a sample.
        """

    @abstractmethod
    def stored_facts(self, store: FeatureStore) -> dict[str, MediumFacts]:
        """Facts of every video of a store that did not fail, by video id."""

    @abstractmethod
    def clip_facts(self, video: dict[str, Any], medium: MediaRef) -> MediumFacts:
        """Facts of a part of a stored video, from its row of the store."""

    @abstractmethod
    def costs(
        self, texts: Sequence[SampleText], facts: Sequence[Sequence[MediumFacts]], store: FeatureStore | None
    ) -> list[SampleCost]:
        """What the media of samples cost, from counts alone.

        Raises:
            StoreError: the model would see frames that the store does not have.
        """

    @abstractmethod
    def watchers(self, model: Any, folder: Path, dtype: torch.dtype) -> Watchers:
        """Watchers with towers of their own, for the model's may be moved, sharded or trained."""

    @abstractmethod
    def recall(self, store: FeatureStore, medium: MediaRef) -> FramesT:
        """What is kept of a stored medium.

        Raises:
            Unusable, StoreError: see :func:`pipelines.train.visibility.load_stored`.
        """

    @abstractmethod
    def media(self, text: SampleText, frames: Sequence[FramesT], is_video: Sequence[bool]) -> Any:
        """A sample's media as the model takes them."""

    def num_sequences(self, frames: Sequence[FramesT]) -> int:
        """In how many sequences a sample with such media is learned."""
        return 1

    def save_tokenizers(self, folder: Path) -> None:
        """Write what stands beside the weights of a checkpoint in the published layout."""
        self.tokenizer.save_pretrained(folder)

    @abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Write what stands beside a model's weights in our layout."""

    @classmethod
    @abstractmethod
    def row_work(cls, config: Any, text: int, visual: int, targets: int, frames: int, online: int) -> RowWork:
        """The work of a sample from its row of the manifest, at most."""

    @classmethod
    @abstractmethod
    def tower_flops(cls, config: Any) -> float:
        """Operations of all towers on one frame."""

    @classmethod
    @abstractmethod
    def visual_parts(cls, config: Any, work: RowWork) -> list[VisualPart]:
        """Operations between towers and language model, in the order of the forward pass."""

    @classmethod
    @abstractmethod
    def visual_bytes(cls, config: Any, work: RowWork, size: int, device: str) -> float:
        """Bytes that everything in front of the language model keeps for the backward pass, features included.

        Args:
            size: bytes of a number.
        """

    @classmethod
    @abstractmethod
    def frame_bytes(cls, config: Any, size: int) -> float:
        """Bytes of a stored frame's features."""


def text_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of a tokenizer."""
    return hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()  # type: ignore[attr-defined]
