"""Checkpoints as evaluation and serving use them, one class per model family behind one interface.

    model = load_video_model("checkpoints/longvu", device="cuda", dtype=torch.bfloat16)
    watched = model.watch("film.mp4")                                     # once per video
    prompt = model.prompt(messages, [watched])                            # once per question
    Engine(model).submit(prompt, SamplingParams()).result().text          # pipelines.engine

``base.py`` has the interface; each family has a file of its own.
"""

from __future__ import annotations

from pipelines.video_models.base import (
    DecodeLimits,
    Prompt,
    PromptTooLong,
    Quantization,
    VideoModel,
    WatchedMedia,
)
from pipelines.video_models.loading import checkpoint_digest, load_video_model

__all__ = [
    "DecodeLimits",
    "Prompt",
    "PromptTooLong",
    "Quantization",
    "VideoModel",
    "WatchedMedia",
    "checkpoint_digest",
    "load_video_model",
]
