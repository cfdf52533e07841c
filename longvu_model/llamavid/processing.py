"""Messages or prompts, pictures and videos to model inputs: the processor of LLaMA-VID.

    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)

The question guides the eye: a medium is shown in front of the newest question, whichever turn it was given in, and that
question's text goes to the Q-Former too. What all processors share is in :mod:`longvu_model.media_processor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase

from longvu_model import vicuna
from longvu_model.checkpoint_files import local_folder
from longvu_model.conversations import Source
from longvu_model.image_processing import PictureProcessor, preprocess_frames
from longvu_model.llama_tokenizer import load_llama_tokenizer
from longvu_model.llamavid import official
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.guides import load_guide_tokenizer, tokenize_guides
from longvu_model.llamavid.labels import guide_of
from longvu_model.media import Medium
from longvu_model.media_processor import MediaProcessor
from longvu_model.prompts import unescape_markers
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD, TowerPixels
from longvu_model.video_processing import SampledVideoProcessor, SamplingKwargs

MODEL_INPUT_NAMES = ["pixel_values", "frame_counts", "guide_ids", "guide_mask"]


class TowerPixelsKwargs(TypedDict, total=False):
    """Fields of both processors that fix the tower's pixels."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: bool


class LlamaVidImageProcessor(PictureProcessor):
    """Pictures to model inputs; saved as ``preprocessor_config.json``.

    Args:
        size: input side of the tower in pixels.
        mean: per RGB channel, in [0, 1].
        std: per RGB channel.
        crop: take the central square instead of padding, as the release does when asked about a picture.
        **kwargs: bookkeeping of the library.
    """

    valid_kwargs = TowerPixelsKwargs  # type: ignore[assignment]
    model_input_names = MODEL_INPUT_NAMES

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        crop: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.mean, self.std, self.crop = size, list(mean), list(std), crop
        tower_pixels(self)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        return pixel_inputs([(medium, tower_pixels(self)) for medium in media])


class VideoKwargs(TowerPixelsKwargs, SamplingKwargs, total=False):
    """Fields of the video processor."""


class LlamaVidVideoProcessor(SampledVideoProcessor):
    """Videos to model inputs; saved as ``video_preprocessor_config.json``. Frames are cropped, never padded.

    Args:
        size: input side of the tower in pixels.
        mean: per RGB channel, in [0, 1].
        std: per RGB channel.
        crop: take the central square instead of padding.
        **kwargs: frame sampling, see :class:`longvu_model.video_processing.SampledVideoProcessor`.
    """

    valid_kwargs = VideoKwargs  # type: ignore[assignment]
    model_input_names = MODEL_INPUT_NAMES

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        crop: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.mean, self.std, self.crop = size, list(mean), list(std), crop
        tower_pixels(self)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        return pixel_inputs([(medium, tower_pixels(self)) for medium in media])


def tower_pixels(processor: Any) -> TowerPixels:
    """The tower's preprocessing of an image or video processor."""
    return TowerPixels(processor.size, tuple(processor.mean), tuple(processor.std), processor.crop)


def pixel_inputs(media: Sequence[tuple[Medium, TowerPixels]]) -> dict[str, Tensor]:
    """Model inputs of media in slot order, each with its preprocessing.

    Returns:
        ``pixel_values`` float32 (F, 3, s, s) and ``frame_counts`` int64 (V,); empty without media.
    """
    if not media:
        return {}
    pixels = [
        preprocess_frames(medium.frames, tower.size, tower.mean, tower.std, crop=tower.crop) for medium, tower in media
    ]
    return {"pixel_values": torch.cat(pixels), "frame_counts": torch.tensor([len(one) for one in pixels])}


class LlamaVidProcessor(MediaProcessor):
    """Tokenizers, image and video processor in one.

    Args:
        image_processor: for pictures.
        tokenizer: of the language model.
        video_processor: for videos; must feed a tower of the same size.
        guide_tokenizer: of the Q-Former; the library saves it in ``guide_tokenizer/``.
        chat_template: Jinja, for messages with content parts.
        guide_length: longest guiding text in word pieces.
    """

    image_processor_type = LlamaVidImageProcessor
    video_processor_type = LlamaVidVideoProcessor
    guide_tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        image_processor: LlamaVidImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        video_processor: LlamaVidVideoProcessor,
        guide_tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        guide_length: int = 256,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, guide_tokenizer, chat_template=chat_template)
        self.guide_length = guide_length
        if image_processor.size != video_processor.size:
            raise ValueError(
                f"pictures of {image_processor.size} pixels, videos of {video_processor.size}: a tower takes one size"
            )

    @classmethod
    def from_config(
        cls, config: LlamaVidConfig, tokenizer: PreTrainedTokenizerBase, guide_tokenizer: PreTrainedTokenizerBase
    ) -> LlamaVidProcessor:
        """The processor that fits a model: its tower's size, its conversation and its padding side."""
        tokenizer.padding_side = config.padding_side
        size = config.vision_config.image_size
        return cls(
            LlamaVidImageProcessor(size, crop=config.rules.inference_crops),
            tokenizer,
            LlamaVidVideoProcessor(size),
            guide_tokenizer,
            chat_template=vicuna.chat_template(config.prompt_style),
            guide_length=config.guide_length,
        )

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        processors = [self.video_processor if medium.is_video else self.image_processor for medium in media]
        return pixel_inputs([(one, tower_pixels(by)) for one, by in zip(media, processors, strict=True)])

    def arranged(
        self, conversations: list[list[dict[str, Any]]], sources: list[list[Source]]
    ) -> tuple[list[list[dict[str, Any]]], list[list[Source]], dict[str, Any]]:
        """Media moved in front of the newest question, and that question as ``guide_ids`` and ``guide_mask``."""
        arranged, guides = [], []
        for messages, media in zip(conversations, sources, strict=True):
            moved, question = _in_front_of_the_newest_question(messages)
            arranged.append(moved)
            guides += [question] * len(media)
        return arranged, sources, self.guide_inputs(guides) if guides else {}

    def tokenize_question(self, text: str) -> Tensor:
        """Ids (1, T) of one open question whose slots are written out; see :mod:`longvu_model.llamavid.long_video`."""
        messages = [{"role": "user", "content": text}]
        prompt = self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
        )
        return self._text_inputs([str(prompt)], "pt", {})["input_ids"]

    def guide_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``guide_ids`` and ``guide_mask`` (S, L) of guiding texts, one for each slot."""
        ids, mask = tokenize_guides(texts, self.guide_tokenizer, self.guide_length)
        return {"guide_ids": ids, "guide_mask": mask}

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """As of :class:`MediaProcessor`, with ``guides``, one text for each medium: what is asked of it.

        Raises:
            ValueError: beside its causes, media in a text without guides.
        """
        guides = kwargs.pop("guides", None)
        inputs = super().__call__(images, text, videos, **kwargs)
        media = len(inputs.get("frame_counts", ()))
        guides = [guides] if isinstance(guides, str) else guides
        if guides is not None and len(guides) != media:
            raise ValueError(f"{len(guides)} guides for {media} media: give one text for each")
        if guides is not None:
            inputs.update(self.guide_inputs(guides))
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        """Arguments of the model that this processor makes."""
        return ["input_ids", "attention_mask", *MODEL_INPUT_NAMES]

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        """The class that a part must have; ``TypeError`` if it has another."""
        name = "tokenizer" if argument_name == "guide_tokenizer" else argument_name
        return super().check_argument_for_proper_class(name, argument)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The processor of a checkpoint folder or hub id, in our layout or the published one.

        Raises:
            FileNotFoundError: no tokenizer of the Q-Former in it.
        """
        if not official.is_published(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = local_folder(pretrained_model_name_or_path)
        config = official.read_config(folder)
        return cls.from_config(config, load_llama_tokenizer(folder), load_guide_tokenizer(folder))

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        parts = super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        return [*parts, load_guide_tokenizer(local_folder(pretrained_model_name_or_path))]


def _in_front_of_the_newest_question(messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Messages with all media in the last user turn, and the text of that turn without line breaks."""
    newest = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if newest is None:
        return list(messages), ""
    media = [part for message in messages for part in _parts(message) if part["type"] != "text"]
    moved = []
    for i, message in enumerate(messages):
        texts = [part for part in _parts(message) if part["type"] == "text"]
        moved.append({**message, "content": [*media, *texts] if i == newest else texts})
    question = "".join(part["text"] for part in _parts(messages[newest]) if part["type"] == "text")
    return moved, guide_of(unescape_markers(question))


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
