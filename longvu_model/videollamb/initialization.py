"""Weights for towers that were never trained, under which a frame's class token tells scenes apart.

The patch filters are those of :mod:`longvu_model.initialization`. The class token begins as nothing, which the first
norm leaves as it is, and the first block's attention, uniform over all tokens, adds the mean of what they hold: colour
and texture of the whole frame. Everything else is small noise.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from longvu_model.initialization import initialize_filters
from longvu_model.towers import VisionBlock
from longvu_model.videollamb.towers import ImageTower, Towers

MEAN_GAIN = 2.0


@torch.no_grad()
def initialize_towers(towers: Towers, seed: int = 0) -> None:
    """Overwrite all weights of the towers, in place; the result depends on ``seed`` and the shapes alone."""
    generator = torch.Generator().manual_seed(seed)
    for tower in (towers.image, towers.video):
        if tower is not None:
            _initialize(tower, generator)


def _initialize(tower: ImageTower, generator: torch.Generator) -> None:
    initialize_filters(tower, generator)
    tower.class_token.zero_()
    tower.position[0] = 0
    first = cast(VisionBlock, tower.blocks[0])
    for linear in (first.query, first.key):
        linear.weight.zero_()
    nn.init.eye_(first.value.weight)
    first.out.weight.copy_(MEAN_GAIN * torch.eye(tower.width))
