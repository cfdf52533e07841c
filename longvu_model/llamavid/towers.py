"""EVA-G, the image tower, without its last block (SEMANTICS section 1).

A pre-norm transformer without final norm; its features are all tokens of the last block that is kept, the class token
first. Queries and values have a bias, keys have none.

Shapes: F frames, N tokens (class token and patches), D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.towers import Mlp, Tower, VisionBlock


class EvaTower(Tower):
    """EVA-G shape: class token, learned positions, exact GELU."""

    image_mean = CLIP_MEAN
    image_std = CLIP_STD

    def __init__(self, config: LlamaVidConfig):
        tower = config.vision_config
        blocks = [
            VisionBlock(
                tower.hidden_size,
                tower.num_attention_heads,
                Mlp(tower.hidden_size, tower.intermediate_size, tower.hidden_act),
                tower.layer_norm_eps,
                layer_scale=False,
                qkv_bias=True,
                key_bias=False,
            )
            for _ in range(tower.num_hidden_layers)
        ]
        super().__init__(tower.hidden_size, tower.patch_size, blocks)
        self.image_size = tower.image_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, tower.hidden_size))
        # row 0 belongs to the class token
        self.position = nn.Parameter(torch.zeros(1, config.grid**2 + 1, tower.hidden_size))

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        patches_FPD = self.patch(pixels_FCHW).flatten(2).transpose(1, 2)
        class_F1D = self.class_token.expand(len(pixels_FCHW), -1, -1)
        return torch.cat([class_F1D, patches_FPD], dim=1) + self.position

    def finish(self, x_FND: Tensor) -> Tensor:
        return x_FND


def resize_position_table(table_1ND: Tensor, side: int) -> Tensor:
    """A position table for a ``side`` x ``side`` patch grid: (1, 1 + p*p, D) -> (1, 1 + side*side, D).

    Bicubic in float32, to the size itself; the class token's row stays.
    """
    old_side = math.isqrt(table_1ND.shape[1] - 1)
    if side == old_side:
        return table_1ND
    grid = table_1ND[:, 1:].float().view(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat([table_1ND[:, :1], patches.to(table_1ND.dtype)], dim=1)
