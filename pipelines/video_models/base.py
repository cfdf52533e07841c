"""What every model family answers: watch a video once, then turn any number of questions about it into prompts.

Nothing here generates; :mod:`pipelines.engine` does, and needs of a model only what stands in :class:`VideoModel`.

Shapes: T positions of a prompt, C model width.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from longvu_model.video import FrameBlock, FrameSampling
from pipelines.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipelines.store import FeatureStore  # needs Arrow, which answering about files does without

Quantization = Literal["8bit", "4bit"]
Kind = Literal["video", "image"]
Source = str | Path | FrameBlock
"""A local file, or frames that are already sampled, with their times."""
Messages = Sequence[Mapping[str, Any]]
"""Chat messages: role and content, a text or a list of {"type": "text", "text": ...}, {"type": "video"} and
{"type": "image"}; parts that are media have no source, the watched media come beside the messages in order."""
Progress = Callable[[int, int], None]
"""Told the number of frames encoded so far and planned in all."""


class PromptTooLong(UserError):
    """The text alone leaves no room in the model's context."""


@dataclass(frozen=True)
class DecodeLimits:
    """Decode in a supervised child process: for files from strangers, which may hang or crash a decoder.

    Args:
        deadline_s: seconds that one file may take.
        memory_bytes: limit on the child's address space; the decoder's own by default.
        max_pixels: limit on width times height; the decoder's own by default.
    """

    deadline_s: float = 600.0
    memory_bytes: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, kw_only=True)
class WatchedMedia(ABC):
    """A video or image with everything done that does not depend on the question; each family has its own subclass.

    It pickles, whatever device it is on. Fields that are tensors are its weight: a subclass keeps large things in
    tensor fields of its own, not in lists or dictionaries.

    Attributes:
        kind: how it was asked to be seen; a prompt's part must be of the same kind.
        num_sampled: frames sampled from the source.
        kept_times_s: presentation times in seconds of the frames that a prompt may show.
        seconds: time per step: ``decode`` and ``encode``, or ``read`` from a store.
        damage: what is wrong with a file of which only the good prefix was seen; None for a whole one.
        identity: equal in two objects only if they hold the same features bit for bit (copies on another device,
            pickles). Two times watching one file gives two: kernels may round differently.
    """

    kind: Kind
    num_sampled: int
    kept_times_s: list[float]
    seconds: dict[str, float]
    damage: str | None = None
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to(self, device: torch.device | str) -> Self:
        """The same on another device; itself if it is there already."""
        moved = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        if all(moved[name] is tensor for name, tensor in self._tensors().items()):
            return self
        return dataclasses.replace(self, **moved)  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        values = ((item.name, getattr(self, item.name)) for item in dataclasses.fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Prompt:
    """What the decoder is given to continue, and how the media came into it.

    Attributes:
        embeds: (T, C) on the model's device, in its dtype.
        visual_tokens: positions of T that media take.
        regime: how the media were shown, in the family's words, such as full, mixed or low; ``text`` without media.
        text_tokens: positions of T that text takes.
        kept_times_s: for each medium, times in seconds of the frames that are shown.
        prefix_length: the first so many positions depend on the media, on what stands before and between them, and on
            the reserved text budget, but not on the question; 0 where there are none.
        prefix_key: equal keys of one model mean bitwise the same prefix, so that its keys and values can be used
            again; None where there is no such prefix.
    """

    embeds: Tensor
    visual_tokens: int
    regime: str
    text_tokens: int
    kept_times_s: list[list[float]] = field(default_factory=list)
    prefix_length: int = 0
    prefix_key: str | None = None

    def __len__(self) -> int:
        return len(self.embeds)


def video_id_of(video: str | Path) -> str:
    """What a feature store knows a video by: the SHA-256 of a file; what is no file is taken for such an id."""
    from pipelines import storage  # needs Arrow, which answering about files does without

    return storage.sha256(storage.resolve(video)) if Path(video).is_file() else str(video)


def token_ids(value: int | Sequence[int] | None) -> list[int]:
    """One, several or no id, as configurations name the end of an answer, as a list."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)


class VideoModel(ABC):
    """A loaded checkpoint. Its methods may be called from several threads at once.

    Args:
        model: of the family's class for generation, in evaluation mode, on its device.
        processor: fits the model.

    Attributes:
        name: the checkpoint's folder name.
        digest: 32 hex digits of weights, configuration, tokenizer and overrides: part of every cache key.
        family: "longvu", "videollamb" or "llamavid".
        tokenizer: with a ``backend_tokenizer``, for decoding as ids come.
        decoder: a decoder-only language model of the transformers library without its head (Qwen2Model, LlamaModel).
        lm_head: its head.
        stop_strings: texts that end an answer and are not part of it.
        eos_token_ids: ids that end an answer and are not part of it.
        max_length: positions that a prompt and its answer may take together.
    """

    family: ClassVar[str]
    name: str
    digest: str
    tokenizer: PreTrainedTokenizerBase
    decoder: nn.Module
    lm_head: nn.Module
    stop_strings: tuple[str, ...]
    eos_token_ids: frozenset[int]
    max_length: int

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.name, self.digest = self.family, ""
        self.decoder, self.lm_head = model.model.language_model, model.lm_head
        self.tokenizer = processor.tokenizer

    @property
    def config(self) -> Any:
        """The model's configuration, of the family's class."""
        return self.model.config

    @functools.cached_property
    def sampling(self) -> FrameSampling:
        """How a video is sampled unless the caller says otherwise."""
        sampling: FrameSampling = self.processor.video_processor.sampling()
        return sampling

    @property
    def device(self) -> torch.device:
        """Where prompts are made and answered."""
        return self.decoder.get_input_embeddings().weight.device  # type: ignore[operator]

    @property
    def dtype(self) -> torch.dtype:
        """Of embeddings and activations; weights of a quantised model have others."""
        return self.decoder.get_input_embeddings().weight.dtype  # type: ignore[operator]

    @abstractmethod
    def watch(
        self,
        source: Source,
        sampling: FrameSampling | None = None,
        progress: Progress = lambda done, planned: None,
        *,
        kind: Kind | None = None,
        limits: DecodeLimits | None = None,
    ) -> WatchedMedia:
        """Decode and encode a video or image: everything that does not depend on the question.

        Args:
            source: a local file, opened under exactly this path; or sampled frames.
            sampling: which frames of a video; :attr:`sampling` by default.
            progress: called after each window of frames.
            kind: by default a still picture is an image and everything else a video. An image is one frame.
            limits: decode in a supervised child; in this process by default.

        Raises:
            VideoError: the file cannot be decoded; the subclass names why.
            ValueError: the sampling rule does not fit the video.
        """

    @abstractmethod
    def recall(self, store: FeatureStore, video: str | Path) -> WatchedMedia:
        """The same from a feature store: nothing is decoded, nothing is encoded.

        Args:
            store: made with this model's towers; the caller has compared their digests.
            video: the file, found by its content wherever it lay when it was extracted; or a video id.

        Raises:
            StoreError: the store lacks the video, or features that this model needs.
        """

    @abstractmethod
    def prompt(self, messages: Messages, media: Sequence[WatchedMedia] = ()) -> Prompt:
        """The embeddings of a conversation, ready to be answered.

        Args:
            messages: see :data:`Messages`; after a user's turn the assistant's is opened.
            media: what :meth:`watch` or :meth:`recall` gave for each part that is a medium, in order, on any device.

        Raises:
            PromptTooLong: the text leaves no room.
            ValueError: messages that cannot be read, or parts and media that differ in number or kind.
        """
