"""The published training stages: which parts learn, how fast, at which lengths.

A stage is a frozen configuration object; what it does to a model is in ``staging.py``.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, get_args

from pydantic import model_validator

from pipelines.config import Config, setting

Part = Literal[
    "towers",
    "aggregator",
    "bridge",
    "qformer",
    "qformer_input",
    "qformer_norm",
    "projector",
    "newline",
    "context",
    "embeddings",
    "language_model",
    "head",
]

PARTS: dict[str, Part] = {
    "model.towers.": "towers",
    "model.tower.": "towers",
    "model.aggregator.": "aggregator",
    "model.bridge.projector.": "projector",
    "model.bridge.": "bridge",
    "model.image_proj.": "qformer_input",
    "model.image_norm.": "qformer_norm",
    "model.qformer.": "qformer",
    "model.frame_tokens.projector.": "projector",
    "model.frame_tokens.newline": "newline",
    "model.frame_tokens.": "context",
    "model.language_model.embed_tokens.": "embeddings",
    "model.language_model.": "language_model",
    "lm_head.": "head",
}
"""Parts of the models of all families; the first prefix that fits a parameter's name decides."""

StageName = Literal["image", "video", "alignment", "instruction", "long_video"]


FROZEN: dict[StageName, tuple[Part, ...]] = {
    "image": ("towers",),
    "video": ("towers",),
    "alignment": ("towers", "qformer", "qformer_norm", "embeddings", "language_model", "head"),
    "instruction": ("towers",),
    "long_video": ("towers", "qformer", "qformer_norm", "context"),
}
"""Parts that keep their weights in the published stages; parameter by parameter, LLaMA-VID's are in
:mod:`longvu_model.llamavid.stages`."""


class LoraSettings(Config):
    """Low-rank adapters in the language model, whose own weights are then frozen."""

    rank: int = setting(16, about="rank of the update", ge=1)
    alpha: float = setting(32.0, about="scale: the update is multiplied by alpha / rank", gt=0)
    dropout: float = setting(0.0, about="dropout before the adapter", ge=0, lt=1)
    learning_rate: float = setting(2e-4, about="peak learning rate of the adapters", gt=0)
    targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        about="names of the linear layers that get an adapter",
        min_length=1,
    )


class Stage(Config):
    """What is trained, on what, how fast. The defaults are the published video stage's."""

    name: StageName = setting(
        "video",
        about="LongVU: image or video, which decides the token grids; VideoLLaMB: instruction; LLaMA-VID: alignment "
        "(captions), instruction or long_video (films by their features, subtitles between frames)",
    )
    frozen: tuple[Part, ...] = setting(
        ("towers",), about="parts that keep their weights; by default those that the published stage of this name froze"
    )
    learning_rate: float = setting(5e-6, about="peak learning rate", gt=0)
    part_learning_rates: dict[Part, float] = setting({}, about="peak learning rates of parts that differ")
    lora: LoraSettings | None = setting(None, about="train adapters instead of the language model; null: no adapters")
    full_grid: int | None = setting(
        None,
        about="LongVU: side of a full-resolution frame in tokens; null: the towers' grid for images, half of it for "
        "video",
        ge=1,
    )
    low_grid: int | None = setting(
        None, about="LongVU: side of a low-resolution frame in tokens; null: a third of the towers' grid", ge=1
    )
    per_scene_loss: bool = setting(
        False, about="VideoLLaMB: learn the answer after each scene's tokens, not only after the last one's"
    )
    max_sequence_length: int = setting(8192, about="tokens of one sample at most", ge=1)
    dino_threshold: float = setting(0.83, about="LongVU: a frame is kept below this similarity to its window")
    drop_threshold: float = setting(
        0.8, about="LongVU: a token is kept below this similarity to its chunk's first frame"
    )
    global_batch_samples: int | None = setting(
        64, about="samples per optimiser step, over all workers; null where global_batch_tokens says it", ge=1
    )
    global_batch_tokens: int | None = setting(
        None,
        about="tokens per optimiser step instead of samples, which leaves hardly a place in a row empty; a multiple of "
        "token_budget * planned_ranks",
        ge=1,
    )
    epochs: int = setting(1, about="passes over the samples", ge=1)
    warmup_ratio: float = setting(0.03, about="share of the steps in which the learning rate rises", ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = setting("cosine", about="learning rate after warm-up")
    weight_decay: float = setting(0.0, about="AdamW's weight decay", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.999), about="AdamW's averages")
    epsilon: float = setting(1e-8, about="AdamW's epsilon", gt=0)
    clip_norm: float = setting(1.0, about="largest norm of the gradient; 0 for no limit", ge=0)
    ema_decay: float | None = setting(None, about="average of the weights per step, e.g. 0.999; null: none", gt=0, lt=1)
    seed: int = setting(0, about="seed of weights that the stage introduces", ge=0)

    @model_validator(mode="before")
    @classmethod
    def _published_parts(cls, values: Any) -> Any:
        if isinstance(values, dict) and "frozen" not in values and values.get("name") in FROZEN:
            return values | {"frozen": FROZEN[values["name"]]}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = sorted(set(self.part_learning_rates) & set(self.frozen))
        if both:
            raise ValueError(f"part_learning_rates names {both}, which are frozen: remove them from one of the two")
        if any(rate <= 0 for rate in self.part_learning_rates.values()):
            raise ValueError(f"part_learning_rates={self.part_learning_rates}: must be > 0; freeze a part with frozen")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)}: each must be >= 0 and < 1")
        if self.lora is not None and "language_model" in self.part_learning_rates:
            raise ValueError("part_learning_rates.language_model has no effect with lora: set lora.learning_rate")
        if (self.global_batch_samples is None) == (self.global_batch_tokens is None):
            raise ValueError(
                f"global_batch_samples={self.global_batch_samples} and global_batch_tokens={self.global_batch_tokens}: "
                f"one of the two decides the size of a step, the other must be null"
            )
        return self

    def lr_factor(self, step: int, total_steps: int) -> float:
        """What peak learning rates are multiplied by in a step.

        Args:
            step: optimiser steps done before it; the first step's factor is 0 if there is warm-up, as in the release.
            total_steps: optimiser steps of the stage.
        """
        warmup = math.ceil(total_steps * self.warmup_ratio)
        if step < warmup:
            return step / warmup
        if self.schedule == "constant":
            return 1.0
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def image_stage(**changes: Any) -> Stage:
    """The published image stage: full token grid, no low resolution, 4 samples on each of 64 devices."""
    return Stage(**{"name": "image", "learning_rate": 1e-5, "global_batch_samples": 256, **changes})


def video_stage(**changes: Any) -> Stage:
    """The published video stage: half the token grid, mixed resolution, 1 sample on each of 64 devices."""
    return Stage(**{"name": "video", **changes})


def part_of(name: str) -> Part:
    """The part that a parameter of a model belongs to.

    Raises:
        ValueError: no part has such a parameter.
    """
    for prefix, part in PARTS.items():
        if name.startswith(prefix):
            return part
    raise ValueError(f"parameter {name!r} belongs to none of the parts {', '.join(get_args(Part))}")


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to a low-rank adapter."""
    return ".lora_" in name
