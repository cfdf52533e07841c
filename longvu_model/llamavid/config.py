"""LlamaVidConfig: everything that fixes what a LLaMA-VID model computes.

The towers are described by the library's InstructBLIP configurations, whose defaults are EVA-G without its last block
and the Q-Former. The mapping from and to the published ``config.json`` is in ``official.py``.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import AutoConfig, InstructBlipQFormerConfig, InstructBlipVisionConfig, PreTrainedConfig

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, sub_config
from longvu_model.llamavid.semantics import CORRECTED, PUBLISHED, SEMANTICS, Semantics

__all__ = ["CORRECTED", "IGNORE_INDEX", "IMAGE_TOKEN_INDEX", "PUBLISHED", "LlamaVidConfig", "Semantics"]

# bert-base-uncased and one more that the release adds as BOS and never produces.
BERT_VOCABULARY = 30523


class LlamaVidConfig(PreTrainedConfig):
    """Configuration of a LLaMA-VID model; defaults are the published 7B video model's but for the language model.

    Args:
        text_config: language model, ``model_type`` "llama".
        vision_config: EVA tower (library field names of InstructBLIP's).
        qformer_config: Q-Former; its ``encoder_hidden_size`` is the width E of the image tokens that it reads.
        num_queries: learned queries Q of the Q-Former.
        image_norm: a norm on the image tokens that the Q-Former reads (published: where its weights are pretrained).
        compress_type: content tokens of a frame: "none" (all), "mean" (one) or "grid:N" (N x N).
        guide_length: longest guiding text in word pieces; its end survives.
        max_sequence_length: tokens of a sample at most, ``None`` for no limit.
        prompt_style: conversation template, one of those in :mod:`longvu_model.vicuna`.
        padding_side: side on which rows of a batch are padded; published checkpoints know the right one only.
        semantics: "corrected" or "published", see :mod:`longvu_model.llamavid.semantics`.

    Raises:
        ValueError: a field is outside its range; the message names it, the value and what is allowed.
    """

    model_type = "llamavid"
    sub_configs = {  # noqa: RUF012
        "text_config": AutoConfig,
        "vision_config": InstructBlipVisionConfig,
        "qformer_config": InstructBlipQFormerConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    # Given as a configuration, a dictionary or None; a configuration of the library after construction.
    text_config: Any = None
    vision_config: Any = None
    qformer_config: Any = None
    num_queries: int = 32
    image_norm: bool = True
    compress_type: str = "mean"
    guide_length: int = 256
    max_sequence_length: int | None = 2048
    prompt_style: str = "vicuna_v1"
    padding_side: str = "right"
    semantics: str = "corrected"
    tie_word_embeddings: bool | None = None
    image_token_id: int = IMAGE_TOKEN_INDEX

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = sub_config(self.text_config, AutoConfig, model_type="llama")
        self.vision_config = sub_config(self.vision_config, InstructBlipVisionConfig)
        self.qformer_config = sub_config(self.qformer_config, InstructBlipQFormerConfig, vocab_size=BERT_VOCABULARY)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.semantics not in SEMANTICS:
            raise ValueError(f"semantics={self.semantics!r}: use one of {sorted(SEMANTICS)}")
        if not re.fullmatch(r"none|mean|grid:([2-9]|[1-9]\d+)", self.compress_type):
            raise ValueError(f"compress_type={self.compress_type!r}: use 'none', 'mean' or 'grid:N' with N from 2")
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side={self.padding_side!r}: use 'left' or 'right'")
        if self.text_config.model_type != "llama":
            raise ValueError(f"text_config.model_type={self.text_config.model_type!r}: use 'llama'")
        if self.guide_length > self.qformer_config.max_position_embeddings:
            raise ValueError(
                f"guide_length={self.guide_length}: the Q-Former has "
                f"{self.qformer_config.max_position_embeddings} positions"
            )
        if not self.image_norm and self.image_projection:
            raise ValueError(
                f"a Q-Former that reads {self.qformer_config.encoder_hidden_size} channels from a tower of "
                f"{self.vision_config.hidden_size} needs image_norm: only pretrained ones are adapted"
            )

    @property
    def rules(self) -> Semantics:
        """The record of quirks that this configuration's ``semantics`` names."""
        return SEMANTICS[self.semantics]

    @property
    def image_projection(self) -> bool:
        """Whether image tokens are mapped to the width that the Q-Former reads."""
        return bool(self.vision_config.hidden_size != self.qformer_config.encoder_hidden_size)

    @property
    def grid(self) -> int:
        """Patches along each side of a picture."""
        return int(self.vision_config.image_size // self.vision_config.patch_size)

    @property
    def tokens_per_frame(self) -> int:
        """Context and content tokens of a frame."""
        from longvu_model.llamavid.compression import num_content_tokens

        return 1 + num_content_tokens(self.compress_type, self.grid, self.rules)
