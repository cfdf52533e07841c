"""AdamW as the engines use it: the published settings, moments from the start, a count of steps that can be set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pipelines.train.engine_state import MOMENTS
from pipelines.train.stages import Stage


def adamw(groups: list[dict[str, Any]], stage: Stage) -> torch.optim.AdamW:
    """The published optimiser."""
    return torch.optim.AdamW(groups, betas=stage.betas, eps=stage.epsilon, weight_decay=stage.weight_decay)


def set_learning_rates(groups: list[dict[str, Any]], factor: float) -> None:
    """Every group's peak learning rate times ``factor``."""
    for group in groups:
        group["lr"] = group["peak_lr"] * factor


def fill_moments(optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor]) -> None:
    """Give every tensor its moments now, so that a checkpoint of step 0 is like any other."""
    for tensor in tensors:
        moments = {kind: torch.zeros_like(tensor, requires_grad=False) for kind in MOMENTS}
        optimizer.state[tensor] = {"step": torch.tensor(0.0), **moments}


def set_steps(optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor], steps: int) -> None:
    """Say how many updates the tensors have had, which AdamW corrects its young averages by."""
    for tensor in tensors:
        optimizer.state[tensor]["step"] = torch.tensor(float(steps))
