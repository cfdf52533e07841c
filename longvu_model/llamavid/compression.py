"""Context and content tokens of a frame (SEMANTICS section 3).

The context token is what the question asks for: the Q-Former's queries, one per row of a softmax over the frame's
visual tokens, choose what is averaged. Content tokens are the visual tokens themselves, averaged or pooled; they do not
depend on the question.

Shapes: F frames, N pairs of a question and a frame, T tower tokens of a frame, P visual tokens, Q queries, D tower
width, B Q-Former width, C model width, c content tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.semantics import Semantics


@dataclass(frozen=True)
class VisualTokens:
    """Tokens of all views, back to back: of each frame the context token, then the content tokens."""

    embeds_LC: Tensor
    counts_S: Tensor
    """int64 (S,), tokens of each view, on the CPU."""


class FrameTokens(nn.Module):
    """Tokens for the language model from a frame's visual tokens and what the Q-Former read."""

    def __init__(self, config: LlamaVidConfig):
        super().__init__()
        self.compress_type, self.rules = config.compress_type, config.rules
        width, hidden = config.vision_config.hidden_size, config.text_config.hidden_size
        self.text_proj = nn.Linear(config.qformer_config.hidden_size, width)
        self.key_proj = nn.Linear(width, width)
        self.value_proj = nn.Linear(width, hidden)
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def context(self, text_NQB: Tensor, visual_NPD: Tensor) -> Tensor:
        """Context tokens (N, C) of Q-Former outputs (N, Q, B) and visual tokens (N, P, D)."""
        return self.attend(self.text_proj(text_NQB), visual_NPD)

    def attend(self, text_NQD: Tensor, visual_NPD: Tensor) -> Tensor:
        """As :meth:`context`, from projected texts (N, Q, D).

        Keys are projected visual tokens. Of the two, queries are fewer, so the key matrix is applied to them.
        """
        asking_NQD = text_NQD @ self.key_proj.weight
        score_NQP = asking_NQD @ visual_NPD.transpose(1, 2) + (text_NQD @ self.key_proj.bias)[..., None]
        weight_NQP = (score_NQP / visual_NPD.shape[-1] ** 0.5).softmax(dim=-1)
        return self.value_proj((weight_NQP.mean(dim=1, keepdim=True) @ visual_NPD)[:, 0])

    def content(self, visual_FPD: Tensor) -> Tensor:
        """Content tokens (F, c, C) of visual tokens (F, P, D)."""
        return self.projector(pool(visual_FPD, self.compress_type, self.rules))


def split_tokens(tokens_FTD: Tensor, grid: int, rules: Semantics, *, stored: bool) -> tuple[Tensor, Tensor]:
    """What the Q-Former sees of a frame, and its visual tokens.

    Args:
        tokens_FTD: a tower's output, or stored features with or without the class token.
        grid: patches along each side.
        stored: whether they were stored.

    Raises:
        ValueError: as many tokens as neither patches nor patches and a class token are.
    """
    num_tokens, num_patches = tokens_FTD.shape[1], grid**2
    if num_tokens not in (num_patches, num_patches + 1):
        raise ValueError(f"{num_tokens} tokens a frame: the tower has {num_patches} patches, and a class token")
    seen_FTD = tokens_FTD
    if stored and rules.stored_features_lose_class_token and num_tokens > num_patches:
        seen_FTD = tokens_FTD[:, 1:]
    has_class = seen_FTD.shape[1] > num_patches
    if rules.class_token_by_parity:
        has_class = seen_FTD.shape[1] % 2 == 1
    return seen_FTD, seen_FTD[:, 1:] if has_class else seen_FTD


def pool(visual_FPD: Tensor, compress_type: str, rules: Semantics) -> Tensor:
    """Visual tokens (F, P, D) as content tokens (F, c, D) before projection.

    Raises:
        ValueError: tokens to be pooled on a grid that do not form a square.
    """
    if compress_type == "none":
        return visual_FPD
    if compress_type == "mean":
        return visual_FPD.mean(dim=1, keepdim=True)
    cells, num_tokens = int(compress_type.removeprefix("grid:")), visual_FPD.shape[1]
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} visual tokens are no square grid to pool ({compress_type})")
    grid_FDHW = visual_FPD.transpose(1, 2).unflatten(2, (side, side))
    if rules.grid_by_kernel:
        pooled = functional.avg_pool2d(grid_FDHW, kernel_size=side // cells, stride=side // cells)
    else:
        pooled = functional.adaptive_avg_pool2d(grid_FDHW, cells)
    return pooled.flatten(2).transpose(1, 2)


def num_content_tokens(compress_type: str, grid: int, rules: Semantics) -> int:
    """Content tokens of a frame that the tower has just encoded."""
    tokens = torch.empty(1, grid**2 + 1, 1, device="meta")
    _, visual = split_tokens(tokens, grid, rules, stored=False)
    return pool(visual, compress_type, rules).shape[1]
