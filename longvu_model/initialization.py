"""Weights for towers that were never trained, under which DINOv2 similarity means something.

With the usual random weights, similarity follows whatever the random filters happen to answer to: small coloured things
go unnoticed, and any two dark shots are the same. The towers of the tiny preset are not trained either, yet have to
tell scenes apart, so their weights are set by design. The architecture is untouched: every number below lands in an
ordinary parameter.

Patch filters. The patch convolution measures the low-frequency cosine coefficients of three opponent colour signals
(light-dark, red-blue, green-magenta) and writes them along random orthonormal directions of the residual stream. The
padding around a wide frame is the mean colour, hence zero in all of them: it adds nothing to a similarity.

DINOv2 then does four things to the coefficients of a patch:

1. Divisive normalisation. Eight channels carry the position as waves of constant energy, ``PEDESTAL`` squared times
   two: LayerNorm divides by sqrt(pedestal^2 + contrast^2), which is close to linear, instead of blowing faint texture
   up to full strength. Nothing but the norms and step 4 sees these channels; the final norm removes them.
2. Rectified light. The MLP of the first block cancels most of the light-dark signal where it is negative: darkness,
   which looks the same in all dark scenes, says little; lit things say much. It is a ReLU made of one sharp GELU.
3. Complex cells. The same MLP adds, in a channel each, how saturated a patch is and how much texture it has: sums of
   magnitudes. They stay what they are when a hue runs along a bar or a striped pullover moves by half a stripe.
4. Pooling and centring. Of the last block's heads one adds the mean over near patches, so that a small motion changes
   little, and one, nearly uniform, subtracts the frame's mean, so that two frames are compared by their layout rather
   than by their overall tint.

Gains favour colour over light (it varies less within a scene, and more between scenes) and large forms over detail
(which motion decorrelates). Everything else is small noise around zero: attention and MLP weights.

SigLIP gets the same filters, whitened, so that colour and shape within a patch survive for training.

What is computed is computed in float64 and rounded once: in float32 the last bits would depend on the number of
threads, and with them the digests of towers.

``tests/benchmarks/similarity.py`` prints what this achieves beside the usual random weights, on the synthetic corpus
and on any video file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.towers import DinoTower, Mlp, Tower, Towers, VisionBlock

NOISE_STD = 0.02
PEDESTAL = 14.0
RECTIFIER_SHARPNESS = 8.0
DARK_GAIN = 0.14
SATURATION_GAIN = 0.75
TEXTURE_GAIN = 0.4
POOLING = 0.6
# Standard deviation of the neighbourhood in patches.
POOLING_WIDTH = 1.0
# Of the magnitudes, which are never negative, more of the mean must stay, or frames are compared by noise.
MAGNITUDE_CENTRING = 0.1
DINO_CHROMA_GAIN = 1.9
DINO_DETAIL_GAIN = 0.15
# SigLIP normalises pixels by 0.5 where DINOv2 uses about 0.225.
SIGLIP_GAIN = 2.0
SIGLIP_CHROMA_GAIN = 2.0
# Cosine coefficients of natural pictures fall off as one over frequency; this flattens them.
SIGLIP_DETAIL_GAIN = 2.0


@torch.no_grad()
def initialize_towers(towers: Towers, seed: int = 0) -> None:
    """Overwrite all weights of both towers, in place; the result depends on ``seed`` and the shapes alone.

    Raises:
        ValueError: a tower is too narrow for colour filters, or DINOv2 has fewer than two blocks or heads, narrow heads
            or a gated MLP.
    """
    generator = torch.Generator().manual_seed(seed)
    initialize_filters(towers.siglip, generator)
    _initialize_dino(towers.dino, generator)


@torch.no_grad()
def initialize_filters(tower: Tower, generator: torch.Generator) -> None:
    """Overwrite all weights of a tower, in place: whitened filters along random directions, noise behind them.

    Raises:
        ValueError: the tower is too narrow for colour filters.
    """
    _fill_with_noise(tower, generator)
    filters, order, chroma = patch_filters(tower, most=tower.width - 1)
    gain = SIGLIP_GAIN * torch.where(chroma, SIGLIP_CHROMA_GAIN, 1.0) * (1 + SIGLIP_DETAIL_GAIN * order)
    directions = _orthonormal_directions(tower.width, len(filters), generator)
    tower.patch.weight.copy_(torch.einsum("dk,kcij->dcij", directions * gain, filters))


def _initialize_dino(tower: DinoTower, generator: torch.Generator) -> None:
    first, last = cast(VisionBlock, tower.blocks[0]), cast(VisionBlock, tower.blocks[-1])
    cells = first.mlp
    if len(tower.blocks) < 2 or not isinstance(cells, Mlp):
        raise ValueError(
            f"a DINOv2 of {len(tower.blocks)} blocks with {type(first.mlp).__name__}: these weights need at least "
            "2 blocks and a plain MLP (num_hidden_layers >= 2, use_swiglu_ffn=False)"
        )
    _fill_with_noise(tower, generator)
    content = tower.width - 2 * _WAVES
    filters, order, chroma = patch_filters(tower, most=content - 3)
    if tower.width // last.num_heads < _POOLED or last.num_heads < 2:
        raise ValueError(
            f"a DINOv2 of {last.num_heads} heads of {tower.width // last.num_heads} channels: these weights need at "
            f"least 2 heads of {_POOLED} (num_attention_heads, hidden_size)"
        )
    _keep_out_of(tower, content)
    _write_positions(tower, content)
    gain = torch.where(chroma, DINO_CHROMA_GAIN, 1.0) * torch.where(order > 0, DINO_DETAIL_GAIN, 1.0)
    directions = _orthonormal_directions(content, len(filters) + 2, generator)
    simple, magnitudes = directions[:, : len(filters)], directions[:, len(filters) :]
    tower.patch.weight.zero_()
    tower.patch.weight[:content] = torch.einsum("dk,kcij->dcij", simple * gain, filters)
    tower.norm.weight[content:] = 0
    _make_cells(cells, simple / gain, magnitudes, simple[:, 0])
    _make_pooling(tower, last, torch.cat([simple[:, : _POOLED - 2], magnitudes], dim=1))


# Channels of the position, each with its negative beside it so that their mean is zero: cos x, sin x, cos y, sin y.
_WAVES = 4
# Pooled channels: the first two orders of three colours, saturation and texture.
_POOLED = 11


def _keep_out_of(tower: DinoTower, content: int) -> None:
    """Let no noise read or write the channels from ``content`` on: a constant that would make all frames alike."""
    for linear in (module for module in tower.modules() if isinstance(module, nn.Linear)):
        if linear.in_features == tower.width:
            linear.weight[:, content:] = 0
        if linear.out_features == tower.width:
            linear.weight[content:] = 0
    tower.position[:, :, content:] = 0
    tower.class_token[..., content:] = 0


def _write_positions(tower: DinoTower, content: int) -> None:
    """Half a wave over the picture's width and one over its height: near patches have similar ones."""
    side = math.isqrt(tower.position.shape[1] - 1)
    angle = math.pi / side * (torch.arange(side, dtype=torch.float64) + 0.5)
    y, x = torch.meshgrid(angle, angle, indexing="ij")
    waves = torch.stack([x.cos(), x.sin(), y.cos(), y.sin()], dim=-1).view(-1, _WAVES)
    waves = torch.cat([waves.new_tensor([[1.0, 0.0, 1.0, 0.0]]), waves])
    tower.position[0, :, content:] = PEDESTAL / math.sqrt(2) * torch.cat([waves, -waves], dim=1)


def _norm_scale(width: int) -> float:
    """What LayerNorm divides by where there is no contrast."""
    return PEDESTAL * math.sqrt(2 / width)


def _make_cells(cells: Mlp, read_DK: Tensor, magnitudes_D2: Tensor, light_D: Tensor) -> None:
    """Rectified light in one hidden unit; saturation and texture from two units per coefficient, |x| = r(x) + r(-x).

    Args:
        read_DK: reads coefficient k as the picture has it, without the patch filter's gain.
    """
    content = len(read_DK)
    scale = _norm_scale(cells.fc1.in_features) / RECTIFIER_SHARPNESS
    cells.fc1.weight[0, :content] = -RECTIFIER_SHARPNESS * light_D
    cells.fc2.weight[:content, 0] = (1 - DARK_GAIN) * scale * light_D
    saturation, texture = magnitudes_D2.T
    mean_colour = [(k, SATURATION_GAIN * DINO_CHROMA_GAIN * saturation) for k in (1, 2)]
    slopes = [(k, TEXTURE_GAIN * texture) for k in range(3, 9)]
    for pair, (k, write_D) in enumerate(mean_colour + slopes):
        for unit, sign in ((2 * pair + 1, 1.0), (2 * pair + 2, -1.0)):
            cells.fc1.weight[unit, :content] = sign * RECTIFIER_SHARPNESS * read_DK[:, k]
            cells.fc2.weight[:content, unit] = scale * write_D


def _make_pooling(tower: DinoTower, block: VisionBlock, pooled_DK: Tensor) -> None:
    """Head 0 adds the mean over near patches, head 1 takes the frame's mean away."""
    content, count = pooled_DK.shape
    head = tower.width // block.num_heads
    # The kernel is exp(sharpness * cos(distance)), a Gaussian of that width where the wave is long.
    grid = tower.image_size // tower.patch.kernel_size[0]
    sharpness = (grid / (math.pi * POOLING_WIDTH)) ** 2
    read = math.sqrt(sharpness * math.sqrt(head) / tower.width)
    for wave in range(_WAVES):
        for linear in (block.query, block.key):
            linear.weight[wave, content + wave] = read
            linear.weight[wave, content + _WAVES + wave] = -read
    block.value.weight[:count, :content] += pooled_DK.T
    block.value.weight[head : head + count, :content] += pooled_DK.T
    scale = _norm_scale(tower.width)
    centring = torch.ones(count)
    centring[-2:] = MAGNITUDE_CENTRING
    block.out.weight[:content, :count] += POOLING * scale * pooled_DK
    block.out.weight[:content, head : head + count] -= (1 + POOLING) * scale * centring * pooled_DK


def patch_filters(tower: Tower, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colour-opponent cosine filters by rising frequency, as many whole orders as ``most`` allows.

    Returns:
        filters float64 (K, 3, p, p) for patches of p pixels; order float64 (K,), the sum of the two spatial
        frequencies, 0 for the mean over the patch; chroma bool (K,), whether a filter measures colour rather than
        light. Filter 0 is mean light.

    Raises:
        ValueError: ``most`` is below 3, so that not even the mean colour fits.
    """
    if most < 3:
        raise ValueError(f"room for {most} patch filters: the mean colour alone needs 3, make the tower wider")
    patch_size = tower.patch.kernel_size[0]
    pixel = torch.arange(patch_size, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / patch_size * torch.arange(patch_size)[:, None] * pixel)
    waves = waves / waves.norm(dim=1, keepdim=True)
    pairs = sorted(((v, h) for v in range(patch_size) for h in range(patch_size)), key=lambda pair: (sum(pair), pair))
    pairs = [pair for pair in pairs if 3 * sum(sum(other) <= sum(pair) for other in pairs) <= most]
    colours = _opponent_colours(tower.image_mean, tower.image_std)
    filters = torch.stack(
        [torch.einsum("c,i,j->cij", colour, waves[v], waves[h]) for v, h in pairs for colour in colours]
    )
    order = torch.tensor([float(v + h) for v, h in pairs for _ in colours], dtype=torch.float64)
    chroma = torch.tensor([False, True, True] * len(pairs))
    # A filter answers with the amplitude of its wave, whatever the size of the patch.
    return filters / patch_size, order, chroma


def _opponent_colours(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Orthonormal float64 rows light-dark, red-blue, green-magenta (3, 3) for normalised pixels.

    Light runs from black to the mean colour. A fixed (1, 1, 1) would not do: ImageNet's mean is warm, and all darkness
    would count as blue.
    """
    light = functional.normalize(
        torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64), dim=0
    )
    red_blue = light.new_tensor([1.0, 0.0, -1.0])
    red_blue = functional.normalize(red_blue - (red_blue @ light) * light, dim=0)
    return torch.stack([light, red_blue, torch.linalg.cross(red_blue, light)])


def _orthonormal_directions(width: int, count: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal float64 columns (width, count), each of zero mean, which LayerNorm would subtract."""
    start = torch.cat([torch.ones(width, 1), torch.randn(width, count, generator=generator)], dim=1)
    return torch.linalg.qr(start.double()).Q[:, 1:]


def _fill_with_noise(tower: nn.Module, generator: torch.Generator) -> None:
    """N(0, NOISE_STD) for weights, positions and tokens; 0 for biases; 1 for norms and layer scales."""
    for name, parameter in tower.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name or "scale" in name:
            parameter.fill_(1)
        else:
            parameter.normal_(0, NOISE_STD, generator=generator)
