"""Messages or prompts, pictures and videos to model inputs: the processor of VideoLLaMB.

    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    inputs = processor(text="USER: <video>\\nWhat happens? ASSISTANT:", videos="clip.mp4")

What it shares with the other families is in :mod:`longvu_model.media_processor`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longvu_model.media import Medium
from longvu_model.media_processor import MediaProcessor
from longvu_model.prompts import VIDEO_MARKER
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.vicuna import chat_template
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.image_processing import MODEL_INPUT_NAMES, VideoLLaMBImageProcessor
from longvu_model.videollamb.prompts import SLOTS
from longvu_model.videollamb.video_processing import VideoLLaMBVideoProcessor


class VideoLLaMBProcessor(MediaProcessor):
    """Tokenizer, image and video processor in one.

    Args:
        image_processor: for pictures.
        tokenizer: of the language model; its ``padding_side`` and pad token are used for batches.
        video_processor: for videos; must feed towers of the same size.
        chat_template: Jinja, for messages with content parts, see :func:`longvu_model.vicuna.chat_template`.
    """

    image_processor_type = VideoLLaMBImageProcessor
    video_processor_type = VideoLLaMBVideoProcessor
    slots = SLOTS
    video_marker = VIDEO_MARKER

    def __init__(
        self,
        image_processor: VideoLLaMBImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        video_processor: VideoLLaMBVideoProcessor,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        if image_processor.size != video_processor.size:
            raise ValueError(
                f"pictures of {image_processor.size} pixels, videos of {video_processor.size}: towers have one size"
            )

    @classmethod
    def from_config(cls, config: VideoLLaMBConfig, tokenizer: PreTrainedTokenizerBase) -> VideoLLaMBProcessor:
        """The processor that fits a model: its towers' size, its prompt style, padding side and number of frames.

        A tokenizer without a pad token gets one: the unknown token as in the release, otherwise the EOS token.
        """
        tokenizer.padding_side = config.padding_side
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        pixels = {"size": config.image_config.image_size, "mean": CLIP_MEAN, "std": CLIP_STD}
        window = config.temporal_window if config.rules.whole_windows_only and config.video_config else None
        videos = VideoLLaMBVideoProcessor(**pixels, num_frames=config.num_frames, window=window)
        template = chat_template(str(config.prompt_style), VIDEO_MARKER)
        return cls(VideoLLaMBImageProcessor(**pixels), tokenizer, videos, chat_template=template)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`longvu_model.videollamb.image_processing.pixel_inputs`."""
        processors = [self.video_processor if medium.is_video else self.image_processor for medium in media]
        inputs = [by.media_inputs([medium]) for medium, by in zip(media, processors, strict=True)]
        return {name: torch.cat([one[name] for one in inputs]) for name in MODEL_INPUT_NAMES}

    @property
    def model_input_names(self) -> list[str]:
        """Arguments of the model that this processor makes."""
        return ["input_ids", "attention_mask", *MODEL_INPUT_NAMES]
