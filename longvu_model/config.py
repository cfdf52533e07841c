"""LongVUConfig: everything that fixes what a LongVU model computes.

Sides of square token grids are given as sides (24, 12, 8), not as token counts. The mapping from and to the published
``config.json`` is in ``official.py``.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, Dinov2Config, PreTrainedConfig, SiglipVisionConfig

from longvu_model.semantics import CORRECTED, PUBLISHED, SEMANTICS, Semantics

__all__ = ["CORRECTED", "IGNORE_INDEX", "IMAGE_TOKEN_INDEX", "PUBLISHED", "LongVUConfig", "Semantics"]

IMAGE_TOKEN_INDEX = -200
"""Stands in ``input_ids`` where the visual tokens of one medium go; never embedded."""

IGNORE_INDEX = -100
"""Label of a position that is not learned."""

# The release finds the end of the text by these constants, whatever the tokenizer says [Q5].
QWEN_PAD_ID = 151643
LLAMA_PAD_ID = 128002


class LongVUConfig(PreTrainedConfig):
    """Configuration of a LongVU model; defaults are the published Qwen2-7B video model.

    Args:
        text_config: language model, ``model_type`` "qwen2" or "llama".
        siglip_config: SigLIP vision tower (library field names).
        dino_config: DINOv2 tower; its ``image_size`` is the size the position table was made for.
        dino_image_size: input side of the DINOv2 tower in pixels.
        token_grid: side G of the grid both towers are resized to.
        query_grids: side Q of each query grid; G must be a multiple of each. ``full_grid`` alone by default.
        full_grid: side S of a full-resolution frame.
        low_grid: side of a low-resolution frame.
        mixed_resolution: whether low-resolution frames exist (the video stage); otherwise only full frames.
        vision_hidden_size: width D of the aggregator.
        connector_depth: aggregator layers.
        aggregator_heads: attention heads of the aggregator.
        frame_pos: add a sinusoid of the frame index to every visual token.
        dino_threshold: a frame is kept while its window similarity is below this.
        drop_threshold: a token is kept while its similarity to the chunk's first frame is below this; 0.8 by
            default (0.7 under published semantics).
        max_sequence_length: tokens of prompt, vision and answer together; ``None`` for no limit (images only).
        answer_reserve: tokens of it kept free for the answer.
        padding_side: side on which rows of a batch are padded.
        prompt_style: "qwen" or "llama3".
        semantics: "corrected" or "published", see :mod:`longvu_model.semantics`.

    Raises:
        ValueError: a field is outside its range; the message names it, the value and what is allowed.
    """

    model_type = "longvu"
    sub_configs = {"text_config": AutoConfig, "siglip_config": SiglipVisionConfig, "dino_config": Dinov2Config}  # noqa: RUF012
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    # Given as a configuration, a dictionary or None; a configuration of the library after construction.
    text_config: Any = None
    siglip_config: Any = None
    dino_config: Any = None
    dino_image_size: int = 378
    token_grid: int = 24
    query_grids: list[int] = None  # type: ignore[assignment]
    full_grid: int = 12
    low_grid: int = 8
    mixed_resolution: bool = True
    vision_hidden_size: int = 1024
    connector_depth: int = 3
    aggregator_heads: int = 16
    frame_pos: bool = False
    dino_threshold: float = 0.83
    drop_threshold: float = None  # type: ignore[assignment]
    max_sequence_length: int | None = 8192
    answer_reserve: int = 16
    padding_side: str = "right"
    prompt_style: str | None = None
    semantics: str = "corrected"
    tie_word_embeddings: bool | None = None
    image_token_id: int = IMAGE_TOKEN_INDEX

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = sub_config(self.text_config, AutoConfig, model_type="qwen2")
        self.siglip_config = sub_config(self.siglip_config, SiglipVisionConfig)
        self.dino_config = sub_config(self.dino_config, Dinov2Config)
        if self.semantics not in SEMANTICS:
            raise ValueError(f"semantics={self.semantics!r}: use one of {sorted(SEMANTICS)}")
        if not self.query_grids:
            self.query_grids = [self.full_grid]
        given: float | None = self.drop_threshold
        self.drop_threshold = self.rules.default_drop_threshold if given is None else given
        if self.prompt_style is None:
            self.prompt_style = "llama3" if self.text_config.model_type == "llama" else "qwen"
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        for grid in self.query_grids:
            if grid < 1 or self.token_grid % grid:
                raise ValueError(f"query_grids={self.query_grids}: each must divide token_grid={self.token_grid}")
        if self.vision_hidden_size % self.aggregator_heads:
            raise ValueError(
                f"vision_hidden_size={self.vision_hidden_size} must be a multiple of "
                f"aggregator_heads={self.aggregator_heads}"
            )
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side={self.padding_side!r}: use 'left' or 'right'")
        if self.text_config.model_type not in ("qwen2", "llama"):
            raise ValueError(f"text_config.model_type={self.text_config.model_type!r}: use 'qwen2' or 'llama'")

    @property
    def rules(self) -> Semantics:
        """The record of quirks that this configuration's ``semantics`` names."""
        return SEMANTICS[self.semantics]

    @property
    def budget_pad_id(self) -> int:
        """The id whose first occurrence ends the text for frame budgets [Q5]."""
        return LLAMA_PAD_ID if self.text_config.model_type == "llama" else QWEN_PAD_ID


def sub_config(value: dict[str, Any] | PreTrainedConfig | None, cls: Any, **defaults: Any) -> PreTrainedConfig:
    """A configuration of a part, given as one, as a dictionary or not at all (``defaults``)."""
    if isinstance(value, PreTrainedConfig):
        return value
    fields = {**defaults, **(value or {})}
    return cls.for_model(**fields) if cls is AutoConfig else cls(**fields)
