"""What encoding will cost on this machine's device: operations of a tower over the speed of a short copy of it.

The copy has the tower's shapes, two of its layers and random weights, so nothing need be loaded and a tower of forty
layers is timed in moments.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from longvu_model.towers import Tower
from pipelines.extract.families import Feature

_TIMED_LAYERS = 2
_TIMED_S = 0.5
# On a CPU, a batch of more work than this is no faster per frame, and takes long.
_CPU_FLOPS = 2e9


@dataclass(frozen=True)
class TowerCost:
    """Cost of one frame in one tower."""

    flops: float
    seconds: float
    device: str


@torch.inference_mode()
def tower_cost(config: Any, feature: Feature, precision: str, batch_frames: int) -> TowerCost:
    """Time the shapes of a feature's tower on the GPU where there is one.

    Args:
        config: of the model.
        precision: number format of the towers.
        batch_frames: frames per call.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        short = feature.tower(config, "video")
    flops = _flops(short)
    short.blocks = short.blocks[:_TIMED_LAYERS]
    short_flops = _flops(short)
    short = short.to_empty(device=device).to(getattr(torch, precision))
    for weight in short.parameters():
        torch.nn.init.normal_(weight, std=0.02)  # what lies there by chance may be slow to compute with
    frames = batch_frames if device == "cuda" else min(batch_frames, math.ceil(_CPU_FLOPS / short_flops))
    frames += -frames % short.window
    pixels = torch.rand(frames, 3, short.image_size, short.image_size, device=device)
    seconds = _seconds(short.eval(), pixels) / frames * flops / short_flops
    return TowerCost(flops, seconds, torch.cuda.get_device_name() if device == "cuda" else "CPU")


def _flops(tower: Tower) -> float:
    """Operations for one frame."""
    with FlopCounterMode(display=False) as counter:
        tower(torch.empty(tower.window, 3, tower.image_size, tower.image_size, device="meta"))
    return float(counter.get_total_flops()) / tower.window


def _seconds(tower: Tower, pixels: torch.Tensor) -> float:
    """Seconds per call, warmed up; the shortest of those that fit into half a second."""
    _synchronized(tower, pixels)
    best, until_s = float("inf"), time.perf_counter() + _TIMED_S
    while best == float("inf") or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        _synchronized(tower, pixels)
        best = min(best, time.perf_counter() - started_s)
    return best


def _synchronized(tower: Tower, pixels: torch.Tensor) -> None:
    tower(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize()
