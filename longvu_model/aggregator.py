"""Spatial vision aggregator (SVA): one query per grid cell attends to its own window of both towers.

A cell sees only its window, so cells are computed back to back as one long list, and only those that survive
cropping are computed at all. Three identities make the list cheap; each is exact up to rounding:

* each window token belongs to one cell, so keys and values are one matrix product over tokens, with the norms'
  gains folded into the weights (both norms see the same normalised input);
* ``proj_in`` of [query; context] splits into a per-cell and a per-frame part;
* all cells start from the same learned query, so the first layer's queries are per frame.

The straightforward version is the oracle in ``tests/oracles/compression.py``. SEMANTICS section 7.

Shapes: F frames, T tokens per frame, A towers, N cells, R window tokens of one tower, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.config import LongVUConfig

# Elements of one projected tower per block of frames. On a CPU the block's intermediates should stay in the cache
# (``tests/benchmarks/compression.py``); elsewhere the limit only bounds memory.
_CPU_BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 27


def block_frames(num_tokens: int, width: int, device: str) -> int:
    """Frames that are aggregated at a time, of ``num_tokens`` tower tokens each, on a device of this type."""
    return max(1, (_CPU_BLOCK if device == "cpu" else _DEVICE_BLOCK) // (num_tokens * width))


class KeyValue(nn.Module):
    """Keys and values of one tower's windows: position, then norm and projection for each, in one product."""

    def __init__(self, width: int, hidden: int, window_tokens: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(window_tokens, width)) if window_tokens > 1 else None
        self.key_norm_weight = nn.Parameter(torch.ones(width))
        self.key_norm_bias = nn.Parameter(torch.zeros(width))
        self.key_weight = nn.Parameter(torch.empty(hidden, width))
        self.value_norm_weight = nn.Parameter(torch.ones(width))
        self.value_norm_bias = nn.Parameter(torch.zeros(width))
        self.value_weight = nn.Parameter(torch.empty(hidden, width))
        for weight in (self.key_weight, self.value_weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, window_NRD: Tensor) -> Tensor:
        """(N, R, D) -> keys then values, (N, R, 2 * hidden)."""
        if self.pos_embed is not None:
            window_NRD = window_NRD + self.pos_embed
        normed_NRD = functional.layer_norm(window_NRD, window_NRD.shape[-1:])
        weight = torch.cat([self.key_weight * self.key_norm_weight, self.value_weight * self.value_norm_weight])
        bias = torch.cat([self.key_weight @ self.key_norm_bias, self.value_weight @ self.value_norm_bias])
        return functional.linear(normed_NRD, weight, bias)


class AggregatorLayer(nn.Module):
    """One cross-attention layer of the aggregator; the residual adds the layer's input query."""

    def __init__(
        self,
        query_width: int,
        context_width: int,
        hidden: int,
        tower_widths: Sequence[int],
        window_tokens: Sequence[int],
        num_heads: int,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.query_width = query_width
        self.proj_context = nn.Linear(context_width, hidden, bias=False)
        self.proj_in = nn.Parameter(torch.empty(hidden, query_width + hidden))
        nn.init.xavier_uniform_(self.proj_in)
        self.query = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden, bias=False))
        self.towers = nn.ModuleList(
            KeyValue(width, hidden, tokens) for width, tokens in zip(tower_widths, window_tokens, strict=True)
        )
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.proj_out = nn.Sequential(
            nn.Linear(hidden, hidden, bias=False), nn.GELU(), nn.Linear(hidden, query_width, bias=False)
        )

    def forward(
        self,
        query_ND: Tensor,
        context_FD: Tensor,
        frame_of_cell_N: Tensor,
        windows: Sequence[Tensor],
        mask_NR: Tensor | None,
    ) -> Tensor:
        """One layer.

        Args:
            query_ND: (N, query width), or (1, query width) when all cells share it.
            context_FD: (F, context width).
            frame_of_cell_N: int64 (N,), row of ``context_FD`` for each cell.
            windows: per tower (N, R, tower width).
            mask_NR: bool (N, sum of R), true where a window token takes part; ``None`` for everywhere.

        Returns:
            (N, query width).
        """
        from_query = functional.linear(query_ND, self.proj_in[:, : self.query_width])
        from_context = functional.linear(self.proj_context(context_FD), self.proj_in[:, self.query_width :])
        if len(query_ND) == 1:
            z_FD = from_query + from_context
            z_ND, attending_ND = z_FD[frame_of_cell_N], self.query(z_FD)[frame_of_cell_N]
        else:
            z_ND = from_query + from_context[frame_of_cell_N]
            attending_ND = self.query(z_ND)
        attended_ND = self.out(self._attend(attending_ND, windows, mask_NR))
        return query_ND + self.proj_out(self.norm(z_ND + attended_ND))

    def _attend(self, query_ND: Tensor, windows: Sequence[Tensor], mask_NR: Tensor | None) -> Tensor:
        key_values = [tower(window) for tower, window in zip(self.towers, windows, strict=True)]
        key_NRD, value_NRD = torch.cat(key_values, dim=1).chunk(2, dim=2)
        heads = (*key_NRD.shape[:2], self.num_heads, -1)
        head_width = query_ND.shape[1] // self.num_heads
        query_NHd = (query_ND * head_width**-0.5).view(len(query_ND), self.num_heads, head_width)
        score_NRH = (key_NRD.view(heads) * query_NHd[:, None]).sum(-1)
        if mask_NR is not None:
            score_NRH = score_NRH.masked_fill(~mask_NR[:, :, None], float("-inf"))
        weight_NRH = score_NRH.softmax(dim=1, dtype=torch.float32).to(value_NRD.dtype)
        return (value_NRD.view(heads) * weight_NRH[..., None]).sum(1).flatten(1)


class Aggregator(nn.Module):
    """Projects both towers to the aggregator's width and runs its layers for every query group."""

    def __init__(self, config: LongVUConfig):
        super().__init__()
        width = config.vision_hidden_size
        tower_widths = (config.siglip_config.hidden_size, config.dino_config.hidden_size)
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(tower, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
            for tower in tower_widths
        )
        self.queries = nn.Parameter(torch.randn(len(config.query_grids), width) / width**0.5)
        self.groups = nn.ModuleList(
            nn.ModuleList(
                AggregatorLayer(
                    width, width, width, (width, width), [(config.token_grid // grid) ** 2] * 2, config.aggregator_heads
                )
                for _ in range(config.connector_depth)
            )
            for grid in config.query_grids
        )

    def forward(
        self,
        siglip_FTD: Tensor,
        dino_FTD: Tensor,
        cells: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    ) -> list[Tensor]:
        """Aggregates the wanted cells of all query groups, in blocks of frames that fit the cache.

        Args:
            siglip_FTD, dino_FTD: tower features on the token grid.
            cells: per query group, on the CPU, the frame of each wanted cell (N,) in ascending order, its window as
                token indices (N, R), and its mask (N, 2 * R) over both towers' windows, or ``None`` when nothing is
                masked.

        Returns:
            Per query group (N, D).
        """
        num_frames, num_tokens, _ = siglip_FTD.shape
        width = self.queries.shape[1]
        block = block_frames(num_tokens, width, siglip_FTD.device.type)
        edges = torch.arange(0, num_frames + block, block).clamp(max=num_frames)
        outputs: list[list[Tensor]] = [[] for _ in cells]
        for first, last in zip(edges.tolist(), edges[1:].tolist(), strict=False):
            siglip_BTD, dino_BTD = self.projectors[0](siglip_FTD[first:last]), dino_FTD[first:last]
            context_BD = siglip_BTD.mean(dim=1)  # SigLIP only, padding included
            for group, (frame_N, window_NR, mask_N2R) in enumerate(cells):
                here = slice(*torch.searchsorted(frame_N, torch.tensor([first, last])).tolist())
                frame_n = frame_N[here] - first
                token_nR = (frame_n[:, None] * num_tokens + window_NR[here]).to(siglip_BTD.device)
                windows = (
                    siglip_BTD.flatten(0, 1)[token_nR],
                    self.projectors[1](dino_BTD.flatten(0, 1)[token_nR]),
                )
                mask_n2R = None if mask_N2R is None else mask_N2R[here].to(siglip_BTD.device)
                query_nD = self.queries[group][None]
                for layer in self.groups[group].children():
                    query_nD = layer(query_nD, context_BD, frame_n.to(context_BD.device), windows, mask_n2R)
                outputs[group].append(query_nD)
        empty = siglip_FTD.new_zeros(0, width)
        return [torch.cat(parts) if parts else empty for parts in outputs]
