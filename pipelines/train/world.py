"""The workers of one training run, and what they tell each other besides gradients.

Small values travel on the CPU over a process group of their own, so that they neither wait for a GPU nor mix with the
engine's collectives. Every rank gets the same values in the same order: whatever is decided from them is decided alike
everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist


class World:
    """All ranks of the default process group, or this process alone where there is none."""

    def __init__(self) -> None:
        many = dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if many else 0
        self.size = dist.get_world_size() if many else 1
        self._group = dist.new_group(backend="gloo") if many else None

    @property
    def first(self) -> bool:
        """Whether this rank does what is done once."""
        return self.rank == 0

    def exchange(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Everybody's values, (ranks, values); a collective."""
        mine = torch.tensor(values, dtype=torch.float64)
        if self._group is None:
            return mine.numpy()[None]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self._group)
        return torch.stack(everyone).numpy()

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value of any kind, by rank; a collective."""
        if self._group is None:
            return [value]
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, value, group=self._group)
        return everyone

    def from_first(self, value: Any) -> Any:
        """The first rank's value; a collective."""
        if self._group is None:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return told[0]
