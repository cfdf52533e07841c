"""Messages or prompts, pictures and videos to model inputs: the processor of LongVU.

    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    inputs = processor(text="<image>\\nWhat is this?", images="cat.png")

What it shares with the other families is in :mod:`longvu_model.media_processor`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from longvu_model.config import LLAMA_PAD_ID, LongVUConfig
from longvu_model.image_processing import MODEL_INPUT_NAMES, LongVUImageProcessor, pixel_inputs, tower_pixels
from longvu_model.media import Medium
from longvu_model.media_processor import MediaProcessor
from longvu_model.prompts import CHAT_TEMPLATES, check_style
from longvu_model.video_processing import LongVUVideoProcessor


class LongVUProcessor(MediaProcessor):
    """Tokenizer, image and video processor in one.

    Args:
        image_processor: for pictures.
        tokenizer: of the language model; its ``padding_side`` and pad token are used for batches.
        video_processor: for videos; must feed towers of the same size.
        chat_template: Jinja, for messages with content parts, such as one of :data:`CHAT_TEMPLATES`.
    """

    image_processor_type = LongVUImageProcessor
    video_processor_type = LongVUVideoProcessor

    def __init__(
        self,
        image_processor: LongVUImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        video_processor: LongVUVideoProcessor,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        for image, video in zip(tower_pixels(image_processor), tower_pixels(video_processor), strict=True):
            if image.size != video.size:
                raise ValueError(f"pictures of {image.size} pixels, videos of {video.size}: a tower has one input size")

    @classmethod
    def from_config(cls, config: LongVUConfig, tokenizer: PreTrainedTokenizerBase) -> LongVUProcessor:
        """The processor that fits a model: its towers' sizes, its prompt style and its padding side.

        A tokenizer without a pad token gets one: the release's (id 128002) where it exists, otherwise the EOS token.
        """
        tokenizer.padding_side = config.padding_side
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(LLAMA_PAD_ID) or tokenizer.eos_token
        sizes = {"siglip_size": config.siglip_config.image_size, "dino_size": config.dino_image_size}
        style = str(config.prompt_style)
        check_style(style)
        return cls(
            LongVUImageProcessor(**sizes), tokenizer, LongVUVideoProcessor(**sizes), chat_template=CHAT_TEMPLATES[style]
        )

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`longvu_model.image_processing.pixel_inputs`."""
        processors = [self.video_processor if medium.is_video else self.image_processor for medium in media]
        return pixel_inputs([(one, *tower_pixels(by)) for one, by in zip(media, processors, strict=True)])

    @property
    def model_input_names(self) -> list[str]:
        """Arguments of the model that this processor makes."""
        return ["input_ids", "attention_mask", *MODEL_INPUT_NAMES]
