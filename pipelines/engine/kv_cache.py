"""Keys and values of all slots, allocated once, behind the library's cache interface.

Shapes: L layers, B slots, K key heads, S positions, D channels, R rows of a step, Q positions of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

BLOCK = 128
"""Attention looks at a multiple of this many positions: a few shapes only, and kernels without ragged ends."""


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of the first positions of a sequence, (2, L, K, S, D)."""

    tensor: Tensor

    @property
    def length(self) -> int:
        return self.tensor.shape[3]

    def to(self, device: torch.device | str) -> KeyValues:
        return KeyValues(self.tensor.to(device))


class SlotCache:
    """Keys and values of ``slots`` sequences of at most ``length`` positions.

    Args:
        config: of the decoder.
        slots: sequences.
        length: positions of each; the room is rounded up to blocks, with at least one more position, to which rows
            without a sequence write.
        dtype, device: of the decoder's activations.
    """

    def __init__(self, config: Any, slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.num_slots, self.length = slots, length
        self.room = in_blocks(length + 1)
        shape = (2, config.num_hidden_layers, slots, heads, self.room, width)
        self.tensor = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def scratch(self) -> int:
        """The position that no sequence ever sees."""
        return self.room - 1

    def read(self, slot: int, length: int) -> KeyValues:
        """A copy of a slot's first positions."""
        return KeyValues(self.tensor[:, :, slot, :, :length].clone())

    def write(self, slot: int, prefix: KeyValues) -> None:
        """Put a copy at a slot's first positions."""
        self.tensor[:, :, slot, :, : prefix.length] = prefix.tensor


class ChunkView(Cache):
    """The cache as a chunk of one slot's positions sees it: ``update`` stores the chunk, and gives all before it too.

    Args:
        start: first position of the chunk.
        visible: positions that attention looks at, masked beyond the chunk.
    """

    def __init__(self, cache: SlotCache, slot: int, start: int, visible: int) -> None:
        super().__init__(layers=[])
        self._LKSD = cache.tensor[:, :, slot : slot + 1]
        self._start, self._visible = start, visible

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._LKSD[0, layer_idx], self._LKSD[1, layer_idx]
        stop = self._start + key_states.shape[2]
        keys[:, :, self._start : stop] = key_states
        values[:, :, self._start : stop] = value_states
        return keys[:, :, : self._visible], values[:, :, : self._visible]


class StepView(Cache):
    """The cache as a decoding step sees it: one position of each of the first R slots.

    Args:
        positions_R: int64, where each row's keys and values go.
        visible: positions that attention looks at.
    """

    def __init__(self, cache: SlotCache, positions_R: Tensor, visible: int) -> None:
        super().__init__(layers=[])
        self._tensor = cache.tensor[:, :, : len(positions_R)]
        self._rows_R = torch.arange(len(positions_R), device=positions_R.device)
        self._positions_R, self._visible = positions_R, visible

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._tensor[0, layer_idx], self._tensor[1, layer_idx]
        keys[self._rows_R, :, self._positions_R] = key_states[:, :, 0]
        values[self._rows_R, :, self._positions_R] = value_states[:, :, 0]
        return keys[:, :, : self._visible], values[:, :, : self._visible]


def in_blocks(length: int) -> int:
    """A length rounded up to whole blocks."""
    return -(-length // BLOCK) * BLOCK
