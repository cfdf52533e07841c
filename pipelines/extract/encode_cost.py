"""What encoding will cost on this machine's device: operations of a tower over the speed of a short copy of it.

The copy has the tower's shapes, two of its layers and random weights, so nothing need be loaded and a tower of forty
layers is timed in moments.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from longvu_model.config import LongVUConfig
from longvu_model.towers import DinoTower, SiglipTower

_TIMED_LAYERS = 2
_TIMED_S = 0.5
# On a CPU, a batch of more work than this is no faster per frame, and takes long.
_CPU_FLOPS = 2e9
_TOWERS: dict[str, tuple[type[DinoTower] | type[SiglipTower], str]] = {
    "dinov2": (DinoTower, "dino_config"),
    "siglip": (SiglipTower, "siglip_config"),
}


@dataclass(frozen=True)
class TowerCost:
    """Cost of one frame in one tower."""

    flops: float
    seconds: float
    device: str


@torch.inference_mode()
def tower_cost(config: LongVUConfig, name: str, precision: str, batch_frames: int) -> TowerCost:
    """Time a tower's shapes on the GPU where there is one.

    Args:
        name: feature name, "dinov2" or "siglip".
        precision: number format of the towers.
        batch_frames: frames per call.
    """
    cuda = torch.cuda.is_available()
    layers = getattr(config, _TOWERS[name][1]).num_hidden_layers
    with torch.device("meta"):
        flops = _flops(_tower(config, name, layers))
        short_flops = _flops(_tower(config, name, min(layers, _TIMED_LAYERS)))
    short = _tower(config, name, min(layers, _TIMED_LAYERS)).to("cuda" if cuda else "cpu", getattr(torch, precision))
    frames = batch_frames if cuda else min(batch_frames, math.ceil(_CPU_FLOPS / short_flops))
    pixels = torch.rand(frames, 3, short.image_size, short.image_size, device="cuda" if cuda else "cpu")
    seconds = _seconds(short.eval(), pixels) / frames * flops / short_flops
    return TowerCost(flops, seconds, torch.cuda.get_device_name() if cuda else "CPU")


def _tower(config: LongVUConfig, name: str, layers: int) -> Any:
    kind, section = _TOWERS[name]
    config = copy.deepcopy(config)
    getattr(config, section).num_hidden_layers = layers
    return kind(config)


def _flops(tower: Any) -> float:
    """Operations for one frame."""
    with FlopCounterMode(display=False) as counter:
        tower(torch.empty(1, 3, tower.image_size, tower.image_size, device="meta"))
    return float(counter.get_total_flops())


def _seconds(tower: Any, pixels: torch.Tensor) -> float:
    """Seconds per call, warmed up; the shortest of those that fit into half a second."""
    _synchronized(tower, pixels)
    best, until_s = float("inf"), time.perf_counter() + _TIMED_S
    while best == float("inf") or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        _synchronized(tower, pixels)
        best = min(best, time.perf_counter() - started_s)
    return best


def _synchronized(tower: Any, pixels: torch.Tensor) -> None:
    tower(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize()
