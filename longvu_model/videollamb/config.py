"""VideoLLaMBConfig: everything that fixes what a VideoLLaMB computes.

The mapping from and to the published ``config.json`` is in ``official.py``.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, sub_config
from longvu_model.videollamb.semantics import CORRECTED, PUBLISHED, SEMANTICS, Semantics

__all__ = [
    "CORRECTED",
    "IGNORE_INDEX",
    "IMAGE_TOKEN_INDEX",
    "PUBLISHED",
    "VIDEO_TOKEN_INDEX",
    "Semantics",
    "VideoLLaMBConfig",
]

VIDEO_TOKEN_INDEX = -201
"""Stands in ``input_ids`` where the visual tokens of a video go; an image's is ``IMAGE_TOKEN_INDEX``."""


class VideoLLaMBConfig(PreTrainedConfig):
    """Configuration of a VideoLLaMB; defaults are the published 7B model ("Base").

    Args:
        text_config: language model, ``model_type`` "llama".
        image_config: CLIP tower of images, and of frames where there is no ``video_config`` (library field names).
        video_config: CLIP tower of videos, with temporal attention; ``None`` for the published "Mem" model.
        temporal_window: frames that see one another in the video tower.
        feature_layer: entry of the towers' list of hidden states that is the feature, counted from its end.
        visible: what the language model gets: "last_scene", the tokens of the last scene, or "memory", the memory
            tokens of all scenes.
        retrieval: whether memories are refreshed from all earlier ones.
        pool_grid: side of the square grid a frame's patches are pooled to.
        num_scenes: scenes of every video; ``None`` for as many as stand out.
        boundary_alpha: without ``num_scenes``, a boundary is deeper than the mean by so many standard deviations.
        max_boundaries: at most so many of them.
        scene_frames: frames of a scene that are looked at.
        num_memory_tokens: M.
        bridge_depth: layers of the recurrent bridge.
        bridge_heads: attention heads in it.
        bridge_intermediate_size: width of its MLP.
        bridge_norm_eps: of its layer norms.
        bridge_dropout: on attention probabilities and dense outputs, when training.
        per_scene_loss: train on the answer after each scene's tokens, not only after the last one's.
        num_frames: frames of a video by default.
        max_sequence_length: tokens of prompt, vision and answer together; ``None`` for no limit.
        padding_side: side on which rows of a batch are padded.
        prompt_style: template of :mod:`longvu_model.vicuna`.
        semantics: "corrected" or "published", see :mod:`longvu_model.videollamb.semantics`.

    Raises:
        ValueError: a field is outside its range; the message names it, the value and what is allowed.
    """

    model_type = "videollamb"
    sub_configs = {  # noqa: RUF012
        "text_config": AutoConfig,
        "image_config": CLIPVisionConfig,
        "video_config": CLIPVisionConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    # Given as a configuration, a dictionary or None; a configuration of the library after construction.
    text_config: Any = None
    image_config: Any = None
    video_config: Any = None
    temporal_window: int = 8
    feature_layer: int = -2
    visible: str = "last_scene"
    retrieval: bool = True
    pool_grid: int = 12
    num_scenes: int | None = 4
    boundary_alpha: float = 0.5
    max_boundaries: int = 15
    scene_frames: int = 8
    num_memory_tokens: int = 32
    bridge_depth: int = 1
    bridge_heads: int = 8
    bridge_intermediate_size: int = 4096
    bridge_norm_eps: float = 1e-12
    bridge_dropout: float = 0.1
    per_scene_loss: bool = False
    num_frames: int = 16
    max_sequence_length: int | None = 2048
    padding_side: str = "right"
    prompt_style: str | None = None
    semantics: str = "corrected"
    tie_word_embeddings: bool | None = None
    image_token_id: int = IMAGE_TOKEN_INDEX
    video_token_id: int = VIDEO_TOKEN_INDEX

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = sub_config(self.text_config, AutoConfig, model_type="llama")
        self.image_config = sub_config(self.image_config, CLIPVisionConfig)
        if self.video_config is not None:
            self.video_config = sub_config(self.video_config, CLIPVisionConfig)
        if self.semantics not in SEMANTICS:
            raise ValueError(f"semantics={self.semantics!r}: use one of {sorted(SEMANTICS)}")
        if self.prompt_style is None:
            self.prompt_style = "llava_v1" if self.rules.answers_in_another_style else "vicuna_v1"
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        if self.visible not in ("last_scene", "memory"):
            raise ValueError(f"visible={self.visible!r}: use 'last_scene' or 'memory'")
        if self.width % self.bridge_heads:
            raise ValueError(f"bridge_heads={self.bridge_heads} must divide the towers' width {self.width}")
        if self.video_config is not None and self.video_config.hidden_size != self.width:
            raise ValueError(f"towers of width {self.width} and {self.video_config.hidden_size}: they must agree")
        if self.num_scenes is not None and self.num_scenes < 1:
            raise ValueError(f"num_scenes={self.num_scenes}: must be at least 1, or None for as many as stand out")
        if self.per_scene_loss and self.visible != "last_scene":
            raise ValueError("per_scene_loss needs visible='last_scene': memory tokens have no tokens of single scenes")
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side={self.padding_side!r}: use 'left' or 'right'")
        if self.text_config.model_type != "llama":
            raise ValueError(f"text_config.model_type={self.text_config.model_type!r}: use 'llama'")

    @property
    def rules(self) -> Semantics:
        """The record of quirks that this configuration's ``semantics`` names."""
        return SEMANTICS[self.semantics]

    @property
    def width(self) -> int:
        """Channels of the towers and of the bridge."""
        return int(self.image_config.hidden_size)

    @property
    def frame_tokens(self) -> int:
        """Tokens of a frame in the bridge."""
        return self.pool_grid**2
