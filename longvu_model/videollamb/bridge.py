"""The recurrent memory bridge: scene tokens and memory tokens through a small transformer (SEMANTICS sections 3 and 4).

Names of shapes: B rows, L tokens of a scene, M memory tokens, K cached tokens, D width, C width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.videollamb.config import VideoLLaMBConfig

# Rows of the table of scene numbers in the published Mem checkpoint.
SCENE_NUMBERS = 1024


class Residual(nn.Module):
    """``norm(dropout(dense(x)) + residual)``."""

    def __init__(self, width_in: int, width: int, config: VideoLLaMBConfig):
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.norm = nn.LayerNorm(width, eps=config.bridge_norm_eps)
        self.dropout = nn.Dropout(config.bridge_dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.norm(self.dropout(self.dense(x)) + residual)


class AttentionBlock(nn.Module):
    """Queries look at keys and keep themselves as residual; no mask, no positions."""

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__()
        self.num_heads = config.bridge_heads
        self.dropout = config.bridge_dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = Residual(config.width, config.width, config)

    def forward(self, query_BLD: Tensor, seen_BKD: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.query, query_BLD), (self.key, seen_BKD), (self.value, seen_BKD))
        )
        # Written out in the release's order: the recurrence carries a fused kernel's rounding on from scene to scene,
        # after eight of them to 2e-5 of the largest value.
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = functional.dropout(weights, self.dropout, self.training) @ value
        return self.out(mixed.transpose(1, 2).flatten(2), query_BLD)


class BridgeLayer(nn.Module):
    """Self-attention and an MLP, each with the norm behind it."""

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__()
        self.attention = AttentionBlock(config)
        self.mlp_in = nn.Linear(config.width, config.bridge_intermediate_size)
        self.mlp_out = Residual(config.bridge_intermediate_size, config.width, config)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = self.attention(x_BLD, x_BLD)
        return self.mlp_out(functional.gelu(self.mlp_in(x_BLD)), x_BLD)


class Bridge(nn.Module):
    """What turns the frames of a scene and the memory of the scenes before into a new memory and visual tokens."""

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__()
        self.first_memory = nn.Parameter(torch.zeros(config.num_memory_tokens, config.width))
        self.layers = nn.ModuleList(BridgeLayer(config) for _ in range(config.bridge_depth))
        self.projector = nn.Linear(config.width, config.text_config.hidden_size)
        self.retrieval = AttentionBlock(config) if config.retrieval else None
        self.scene_numbers: nn.Parameter | None = None
        if config.visible == "memory" and config.retrieval:
            self.scene_numbers = nn.Parameter(torch.zeros(SCENE_NUMBERS, config.width))

    def step(self, tokens_BLD: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One scene.

        Args:
            memory: of the scenes before, (B, M, D); one of (M, D) is added to the first memory, which is the default.

        Returns:
            new memory (B, M, D) and scene states (B, L, D).
        """
        if memory is None:
            memory = self.first_memory
        elif memory.dim() == 2:
            memory = memory + self.first_memory
        memory_BMD = memory.expand(len(tokens_BLD), -1, -1)
        x = torch.cat([memory_BMD, tokens_BLD], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x[:, : memory_BMD.shape[1]], x[:, memory_BMD.shape[1] :]

    def project(self, states: Tensor) -> Tensor:
        """Visual tokens (.., C) of states (.., D)."""
        return functional.gelu(self.projector(states))
