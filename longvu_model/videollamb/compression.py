"""Frames of a video to visual tokens: pooled, cut into scenes, carried through the bridge (SEMANTICS sections 5 and 6).

The scenes of a video follow one another through :class:`Recurrence`, which streaming uses as well. Media of so few
frames that there are no scenes are taken together.

Shapes: V media, F frames of all of them, T frames of one, P pooled tokens of a frame, L tokens of a scene, M memory
tokens, D width, C width of the language model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from longvu_model.videollamb.bridge import SCENE_NUMBERS, Bridge
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.frame_selection import scene_frames
from longvu_model.videollamb.scene_tilling import BoundaryRule, boundaries, depth_scores, scenes, similarities

Scene = tuple[int, int]
"""First and last frame."""


@dataclass(frozen=True)
class VisualTokens:
    """The visual sequences of a batch, packed medium after medium."""

    embeds_LC: Tensor
    counts_V: Tensor
    """Tokens per medium, int64 on the CPU."""
    scenes_V: list[list[Scene]]
    """Of each medium; a medium without scenes has one."""
    scene_tokens_V: list[list[Tensor]]
    """Tokens (L, C) that each scene of a medium gives."""


def pool(features_FND: Tensor, side: int) -> Tensor:
    """Tower features, class token first, with patches averaged on a square grid: (F, 1 + side * side, D).

    Windows overlap where the sides do not divide; a smaller grid grows. What is on the grid already stays as it is.

    Raises:
        ValueError: the patches form no square.
    """
    num_patches = features_FND.shape[1] - 1
    old_side = math.isqrt(num_patches)
    if old_side**2 != num_patches:
        raise ValueError(f"{num_patches} patches behind the class token form no square grid")
    if old_side == side:
        return features_FND
    grid_FDHW = features_FND[:, 1:].transpose(1, 2).unflatten(2, (old_side, old_side))
    pooled_FPD = functional.adaptive_avg_pool2d(grid_FDHW, side).flatten(2).transpose(1, 2)
    return torch.cat([features_FND[:, :1], pooled_FPD], dim=1)


def boundary_rule(config: VideoLLaMBConfig) -> BoundaryRule:
    """Where this model cuts a whole video."""
    if config.num_scenes is not None:
        return BoundaryRule(count=config.num_scenes - 1)
    return BoundaryRule(alpha=config.boundary_alpha, most=config.max_boundaries)


def find_scenes(config: VideoLLaMBConfig, class_TD: Tensor) -> list[Scene]:
    """Scenes of a video from the class tokens of its frames; one for media that are too short for scenes."""
    if len(class_TD) <= short_frames(config):
        return [(0, len(class_TD) - 1)]
    # Depths are few; on the CPU their positions are known without waiting for the device twice.
    depth = depth_scores(similarities(class_TD).cpu())
    return scenes(boundaries(depth, boundary_rule(config)))


def short_frames(config: VideoLLaMBConfig) -> int:
    """Media of at most so many frames have no scenes; their frames are seen one by one."""
    return 3 if config.visible == "memory" and config.retrieval else 1


class Recurrence:
    """One video on its way through the bridge, scene by scene.

    Args:
        most_cached: scenes whose cached tokens are kept for retrieval; ``None`` for all. Beyond it that one is let go
            which is most like the one after it, so that what is kept stays varied.
    """

    def __init__(self, bridge: Bridge, config: VideoLLaMBConfig, most_cached: int | None = None):
        self._bridge, self._most_cached = bridge, most_cached
        self._shows_memory = config.visible == "memory"
        self.memory: Tensor | None = None
        self._cache: list[Tensor] = []
        self._num_scenes = 0

    @property
    def num_cached(self) -> int:
        """Tokens that are looked at in retrieval."""
        return sum(tokens.shape[1] for tokens in self._cache)

    def add(self, tokens_LD: Tensor) -> Tensor:
        """Take the next scene; its visual tokens: (L, C), or (M, C) where memories are shown."""
        tokens_1LD = tokens_LD[None]
        numbers = self._bridge.scene_numbers
        if numbers is not None:
            tokens_1LD = tokens_1LD + numbers[min(self._num_scenes, SCENE_NUMBERS - 1)]
        memory, states = self._bridge.step(tokens_1LD, self.memory)
        self._num_scenes += 1
        if self._bridge.retrieval is not None:
            self._remember(states if self._shows_memory else memory)
            memory = self._bridge.retrieval(memory, torch.cat(self._cache, dim=1))
        self.memory = memory
        return self._bridge.project(memory if self._shows_memory else states)[0]

    def _remember(self, tokens_1KD: Tensor) -> None:
        self._cache.append(tokens_1KD)
        if self._most_cached is not None and len(self._cache) > self._most_cached:
            means_SD = torch.stack([tokens.mean(dim=(0, 1)) for tokens in self._cache])
            # The newest has no successor yet and stays.
            del self._cache[int(similarities(means_SD).argmax())]


def compress(bridge: Bridge, config: VideoLLaMBConfig, frames_FND: Tensor, counts_V: Tensor) -> VisualTokens:
    """Visual tokens of media.

    Args:
        frames_FND: pooled features of all frames, class token first.
        counts_V: frames per medium, on the CPU.
    """
    videos_V = list(frames_FND.split(counts_V.tolist()))
    scenes_V = [find_scenes(config, frames_TND[:, 0]) for frames_TND in videos_V]
    short = [v for v, count in enumerate(counts_V.tolist()) if count <= short_frames(config)]
    tokens_V: list[list[Tensor]] = [[] for _ in videos_V]
    if short:
        together = _by_frame(bridge, config, torch.cat([videos_V[v][:, 1:] for v in short]))
        for v, tokens_TLC in zip(short, together.split([len(videos_V[v]) for v in short]), strict=True):
            tokens_V[v] = [tokens_TLC.flatten(0, 1)]
    for v, frames_TND in enumerate(videos_V):
        if v not in short:
            recurrence = Recurrence(bridge, config)
            tokens_V[v] = [
                recurrence.add(frames_TND[scene_frames(*scene, config.scene_frames), 1:].flatten(0, 1))
                for scene in scenes_V[v]
            ]
    shown_V = [visible_tokens(config, tokens) for tokens in tokens_V]
    embeds_LC = torch.cat(shown_V)
    return VisualTokens(embeds_LC, torch.tensor([len(shown) for shown in shown_V]), scenes_V, tokens_V)


def visible_tokens(config: VideoLLaMBConfig, scene_tokens: list[Tensor]) -> Tensor:
    """What the language model gets of the tokens of all scenes (L, C)."""
    return torch.cat(scene_tokens) if config.visible == "memory" else scene_tokens[-1]


def _by_frame(bridge: Bridge, config: VideoLLaMBConfig, tokens_FPD: Tensor) -> Tensor:
    """Frames seen one by one, without a memory: (F, P or M, C)."""
    memory_FMD, states_FPD = bridge.step(tokens_FPD)
    if config.visible == "last_scene":
        return bridge.project(states_FPD)
    if bridge.retrieval is not None:
        memory_FMD = bridge.retrieval(memory_FMD, states_FPD)
    return bridge.project(memory_FMD)


def most_tokens(config: VideoLLaMBConfig, num_frames: int) -> int:
    """Visual tokens that a medium costs at most."""
    if num_frames <= short_frames(config):
        return num_frames * (config.num_memory_tokens if config.visible == "memory" else config.frame_tokens)
    if config.visible == "memory":
        most_scenes = config.num_scenes or config.max_boundaries + 1
        return min(most_scenes, num_frames) * config.num_memory_tokens
    return min(config.scene_frames, num_frames) * config.frame_tokens
