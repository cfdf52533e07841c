"""Continuous batching over any :class:`pipelines.video_models.VideoModel`; nothing of Ray in here.

    engine = Engine(model, EngineConfig(slots=16))
    generation = engine.submit(model.prompt(messages, [watched]), SamplingParams(max_tokens=64))
    for delta in generation: print(delta.text, end="")

Read ``engine.py`` first: one thread, and what it does in a turn. Why outputs do not depend on who else is being
answered is told in ``runner.py``.
"""

from __future__ import annotations

from pipelines.engine.engine import Engine, Load
from pipelines.engine.generation import Completion, Delta, EngineFailed, EngineFull, Generation, TokenLogprob
from pipelines.engine.settings import EngineConfig, SamplingParams
from pipelines.engine.visual_cache import VisualCache

__all__ = [
    "Completion",
    "Delta",
    "Engine",
    "EngineConfig",
    "EngineFailed",
    "EngineFull",
    "Generation",
    "Load",
    "SamplingParams",
    "TokenLogprob",
    "VisualCache",
]
