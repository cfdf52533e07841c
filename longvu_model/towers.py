"""SigLIP and DINOv2 image towers, both resized to one square token grid (SEMANTICS section 3).

The two are one pre-norm transformer with different trimmings. They are written out here, rather than taken from
``transformers``, because the library renamed their parameters and changed the resize rule of DINOv2's position table
between 5.17 and 5.23, and a checkpoint must mean the same under every version; ``tests/test_towers.py`` holds them
against the library's own. Weights of the library's checkpoints are read by :mod:`longvu_model.official`.

SigLIP gives the output of its last layer before the final norm, DINOv2 the output after it [Q1].

Shapes: F frames, P patches, N tokens (patches, and for DINOv2 a leading class token), D channels, G grid side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.config import LongVUConfig

FRAMES_PER_CALL = 64

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Attention(Protocol):
    """Projections of self-attention, width D to D each."""

    num_heads: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear


class VisionBlock(nn.Module):
    """One pre-norm layer: ``x += s1 * attention(norm(x))``, ``x += s2 * mlp(norm(x))``; s only with layer scale."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp: nn.Module,
        norm_eps: float,
        layer_scale: bool,
        qkv_bias: bool,
        key_bias: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key = nn.Linear(width, width, bias=qkv_bias and key_bias)
        self.value = nn.Linear(width, width, bias=qkv_bias)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = mlp
        self.scale1 = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(width)) if layer_scale else None

    def forward(self, x_FND: Tensor) -> Tensor:
        attended_FND = attend(self, self.norm1(x_FND))
        x_FND = x_FND + (attended_FND if self.scale1 is None else attended_FND * self.scale1)
        mixed_FND = self.mlp(self.norm2(x_FND))
        return x_FND + (mixed_FND if self.scale2 is None else mixed_FND * self.scale2)


def attend(block: Attention, x_FND: Tensor) -> Tensor:
    """Self-attention with the projections ``query``, ``key``, ``value`` and ``out`` of a module: (F, N, D)."""
    heads = (*x_FND.shape[:2], block.num_heads, -1)
    query, key, value = (
        projection(x_FND).view(heads).transpose(1, 2) for projection in (block.query, block.key, block.value)
    )
    out = functional.scaled_dot_product_attention(query, key, value)
    return block.out(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps around an activation."""

    def __init__(self, width: int, hidden: int, activation: str):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class SwiGlu(nn.Module):
    """``W_out(silu(a) * b)`` with (a, b) the halves of ``W_in x``; hidden width 2/3 of the ratio, rounded up to 8."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        hidden = (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8
        self.weights_in = nn.Linear(width, 2 * hidden)
        self.weights_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(functional.silu(gate) * value)


class Tower(nn.Module, ABC):
    """What towers share: normalised pixels in, patches, blocks, tokens out."""

    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    window: int = 1
    """Consecutive frames that see one another; frames come in whole windows."""

    def __init__(self, width: int, patch_size: int, blocks: Sequence[nn.Module], patch_bias: bool = True):
        super().__init__()
        self.width = width
        self.patch = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=patch_bias)
        self.blocks = nn.ModuleList(blocks)

    @abstractmethod
    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        """Patches with positions (and the class token, if any): (F, 3, H, W) -> (F, N, D)."""

    @abstractmethod
    def finish(self, x_FND: Tensor) -> Tensor:
        """From the last block's output (F, N, D) to the tower's features (F, T, D)."""

    def forward(self, pixels_FCHW: Tensor) -> Tensor:
        """Normalised pixels (F, 3, image_size, image_size) -> features (F, T, D).

        Raises:
            ValueError: the pixels have another size than the tower's.
        """
        if pixels_FCHW.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"{type(self).__name__} takes pixels of shape (frames, 3, {self.image_size}, {self.image_size}), "
                f"not {tuple(pixels_FCHW.shape)}; preprocess the frames with the model's own processor"
            )
        pixels_FCHW = pixels_FCHW.to(self.patch.weight.dtype)
        outputs = [self.encode(chunk) for chunk in pixels_FCHW.split(FRAMES_PER_CALL)]
        return torch.cat(outputs) if len(outputs) != 1 else outputs[0]

    def encode(self, pixels_FCHW: Tensor) -> Tensor:
        """As :meth:`forward`, all frames in one call and unchecked: what ``torch.compile`` is given."""
        x_FND = self.embed(pixels_FCHW)
        for block in self.blocks:
            x_FND = block(x_FND)
        return self.finish(x_FND)


class SiglipTower(Tower):
    """SigLIP so400m shape: learned positions, tanh GELU, no class token, no final norm."""

    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def __init__(self, config: LongVUConfig):
        tower = config.siglip_config
        blocks = [
            VisionBlock(
                tower.hidden_size,
                tower.num_attention_heads,
                Mlp(tower.hidden_size, tower.intermediate_size, tower.hidden_act),
                tower.layer_norm_eps,
                layer_scale=False,
                qkv_bias=True,
            )
            for _ in range(tower.num_hidden_layers)
        ]
        super().__init__(tower.hidden_size, tower.patch_size, blocks)
        self.token_grid = config.token_grid
        self.image_size = tower.image_size
        self.position = nn.Parameter(torch.zeros((tower.image_size // tower.patch_size) ** 2, tower.hidden_size))

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        return self.patch(pixels_FCHW).flatten(2).transpose(1, 2) + self.position

    def finish(self, x_FND: Tensor) -> Tensor:
        return resize_tokens(x_FND, self.token_grid)


class DinoTower(Tower):
    """DINOv2 shape: class token, resized position table, layer scale, SwiGLU or GELU MLP, final norm."""

    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)

    def __init__(self, config: LongVUConfig):
        tower = config.dino_config
        hidden = int(tower.hidden_size * tower.mlp_ratio)
        blocks = [
            VisionBlock(
                tower.hidden_size,
                tower.num_attention_heads,
                SwiGlu(tower.hidden_size, tower.mlp_ratio)
                if tower.use_swiglu_ffn
                else Mlp(tower.hidden_size, hidden, tower.hidden_act),
                tower.layer_norm_eps,
                layer_scale=True,
                qkv_bias=tower.qkv_bias,
            )
            for _ in range(tower.num_hidden_layers)
        ]
        super().__init__(tower.hidden_size, tower.patch_size, blocks)
        self.token_grid = config.token_grid
        self.image_size = config.dino_image_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, tower.hidden_size))
        # row 0 belongs to the class token
        num_positions = (tower.image_size // tower.patch_size) ** 2 + 1
        self.position = nn.Parameter(torch.zeros(1, num_positions, tower.hidden_size))
        self.norm = nn.LayerNorm(tower.hidden_size, eps=tower.layer_norm_eps)

    def embed(self, pixels_FCHW: Tensor) -> Tensor:
        patches_FHW = self.patch(pixels_FCHW)
        side = patches_FHW.shape[-1]
        tokens_FND = torch.cat(
            [self.class_token.expand(len(pixels_FCHW), -1, -1), patches_FHW.flatten(2).transpose(1, 2)], dim=1
        )
        return tokens_FND + resize_position_table(self.position, side)

    def finish(self, x_FND: Tensor) -> Tensor:
        return resize_tokens(self.norm(x_FND)[:, 1:], self.token_grid)


class Towers(nn.Module):
    """The two frozen towers of a model."""

    def __init__(self, config: LongVUConfig):
        super().__init__()
        self.siglip = SiglipTower(config)
        self.dino = DinoTower(config)


def resize_position_table(table_1ND: Tensor, side: int) -> Tensor:
    """DINOv2's position table for a ``side`` x ``side`` patch grid: (1, 1 + p*p, D) -> (1, 1 + side*side, D).

    Bicubic in float32 at the published scale (side + 0.1) / p, which also sets the coordinate map [Q4]; libraries
    since then resize by size alone and differ.
    """
    old_side = math.isqrt(table_1ND.shape[1] - 1)
    if side == old_side:
        return table_1ND
    grid = table_1ND[:, 1:].float().view(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / old_side
    grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    patches = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat([table_1ND[:, :1], patches.to(table_1ND.dtype)], dim=1)


def resize_tokens(tokens_FPD: Tensor, side: int) -> Tensor:
    """Square token grid resized bilinearly in float32 to ``side`` x ``side``: (F, P, D) -> (F, side*side, D)."""
    num_tokens = tokens_FPD.shape[1]
    if num_tokens == side * side:
        return tokens_FPD
    old_side = math.isqrt(num_tokens)
    grid = tokens_FPD.float().view(len(tokens_FPD), old_side, old_side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(tokens_FPD.dtype)
