"""Least recently used first out, counted in bytes, with a second tier that what falls out of the first goes to."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteLRU(Generic[V]):
    """Values by key within a number of bytes; safe to use from several threads.

    Args:
        capacity_bytes: of the first tier. A value larger than that is not held in it.
        size: bytes of a value, the same in both tiers.
        spill_bytes: of the second tier, 0 for none.
        demote: what the second tier holds in place of a value, e.g. a copy in host memory.
        promote: the value again, from that.
    """

    def __init__(
        self,
        capacity_bytes: int,
        size: Callable[[V], int],
        *,
        spill_bytes: int = 0,
        demote: Callable[[V], V] = lambda value: value,
        promote: Callable[[V], V] = lambda value: value,
    ) -> None:
        self._size, self._demote, self._promote = size, demote, promote
        self._limits = (capacity_bytes, spill_bytes)
        self._tiers: tuple[OrderedDict[str, V], OrderedDict[str, V]] = (OrderedDict(), OrderedDict())
        self._held = [0, 0]
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> tuple[int, int]:
        """Bytes in the first and in the second tier."""
        return self._held[0], self._held[1]

    def __len__(self) -> int:
        return sum(map(len, self._tiers))

    def get(self, key: str) -> V | None:
        """The value, now the most recently used and in the first tier; None where there is none."""
        with self._lock:
            if key in self._tiers[0]:
                self._tiers[0].move_to_end(key)
                return self._tiers[0][key]
            if key not in self._tiers[1]:
                return None
            value = self._promote(self._take(1, key))
            self._insert(0, key, value)
            return value

    def put(self, key: str, value: V) -> None:
        """Hold a value; what was used longest ago makes room."""
        with self._lock:
            for tier in (0, 1):
                if key in self._tiers[tier]:
                    self._take(tier, key)
            self._insert(0, key, value)

    def _take(self, tier: int, key: str) -> V:
        value = self._tiers[tier].pop(key)
        self._held[tier] -= self._size(value)
        return value

    def _insert(self, tier: int, key: str, value: V) -> None:
        size, limit = self._size(value), self._limits[tier]
        if size <= limit:
            self._tiers[tier][key] = value
            self._held[tier] += size
            while self._held[tier] > limit:
                oldest = next(iter(self._tiers[tier]))
                self._drop(tier, oldest, self._take(tier, oldest))
        else:
            self._drop(tier, key, value)

    def _drop(self, tier: int, key: str, value: V) -> None:
        if tier == 0 and self._size(value) <= self._limits[1]:
            self._insert(1, key, self._demote(value))
