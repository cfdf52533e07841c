"""From aggregated cells to visual tokens: resolution, query-guided upgrades, spatial token compression.

Tokens of all media live back to back in one (tokens, C) tensor; which row means what is integer arithmetic done on
the CPU beforehand. Nothing loops over frames, patches or rows. SEMANTICS sections 8, 9, 11, 12; the per-frame version
that follows the text word by word is the oracle in ``tests/oracles/compression.py``.

Shapes: V media, F kept frames of all media, N aggregated cells, L visual tokens, D aggregator width, C model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model import geometry, ragged
from longvu_model.config import LongVUConfig
from longvu_model.frame_selection import thin_evenly
from longvu_model.regimes import MediaShape, Regime
from longvu_model.semantics import Semantics

CHUNK_FRAMES = 8


@dataclass(frozen=True)
class VisualTokens:
    """The visual sequences of a batch, packed medium after medium."""

    embeds_LC: Tensor
    counts_V: Tensor
    """Tokens per medium, int64 on the CPU."""
    upgraded_F: Tensor
    """Kept frames shown at full resolution because the question points to them, bool on the CPU."""
    scores_F: Tensor | None
    """Question score of each kept frame, float32; ``None`` when no medium had to choose."""
    drop_similarity: Tensor | None
    """Similarity of every token that was compared when dropping, in order; ``None`` when nothing had to be dropped."""


@dataclass(frozen=True)
class CellPlan:
    """Which query cells must be aggregated; index tensors on the CPU, one entry per query group."""

    cells: list[tuple[Tensor, Tensor, Tensor | None]]
    """Frame (N,), window tokens (N, R) and mask (N, 2R) of each wanted cell, as ``Aggregator.forward`` takes them."""
    slots_FQ: list[Tensor]
    """Row of each (frame, cell) among the wanted cells; undefined where it is not wanted."""


def frames_of(counts_V: Tensor) -> Tensor:
    """Medium of every packed frame: (V,) -> (F,)."""
    return ragged.expand(counts_V)[0]


def plan_cells(config: LongVUConfig, shape: MediaShape, regime: Regime, kept_counts_V: Tensor) -> CellPlan:
    """The query cells that some wanted full- or low-resolution token is made of."""
    wants_full_V = regime.base_full_V | (regime.num_upgraded_V > 0)
    full_VS = _covered(config.full_grid, shape.full_rectangles_V4) & wants_full_V[:, None]
    low_VL = _covered(config.low_grid, shape.low_rectangles_V4) & ~regime.base_full_V[:, None]
    medium_F = frames_of(kept_counts_V)
    cells, slots = [], []
    for query_grid in config.query_grids:
        wanted_VQ = _sources(full_VS, query_grid, config.full_grid)
        if config.mixed_resolution:
            wanted_VQ |= _sources(low_VL, query_grid, config.low_grid)
        wanted_FQ = wanted_VQ[medium_F]
        frame_N, cell_N = wanted_FQ.nonzero(as_tuple=True)
        mask_VQR = geometry.window_masks(config.token_grid, query_grid, shape.pairs_V2)
        mask_N2R = None
        if not bool(mask_VQR[wanted_VQ].all()):
            mask_N2R = mask_VQR[medium_F[frame_N], cell_N].repeat(1, 2)
        cells.append((frame_N, geometry.window_tokens(config.token_grid, query_grid)[cell_N], mask_N2R))
        slots.append(wanted_FQ.flatten().cumsum(0).view_as(wanted_FQ) - 1)
    return CellPlan(cells, slots)


class FrameTokens(nn.Module):
    """Turns aggregated cells into the tokens of a frame at one resolution: resize, project, newline, position."""

    def __init__(self, config: LongVUConfig):
        super().__init__()
        self.config = config
        width, hidden = config.vision_hidden_size * len(config.query_grids), config.text_config.hidden_size
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.newline = nn.Parameter(torch.randn(hidden) / hidden**0.5)

    def forward(
        self,
        groups_ND: Sequence[Tensor],
        slots_FQ: Sequence[Tensor],
        grid: int,
        rectangles_F4: Tensor,
        times_F: Tensor,
        frames_f: Tensor,
    ) -> Tensor:
        """Tokens of some frames, packed frame after frame.

        Args:
            groups_ND: aggregator output per query group.
            slots_FQ: see :class:`CellPlan`.
            grid: side of the token grid to resize to.
            rectangles_F4: crop of each frame on that grid.
            times_F: index of each frame among the sampled ones (0 for images).
            frames_f: int64, the frames wanted.

        Returns:
            (sum over wanted frames of rows * (columns + 1), C).
        """
        device = groups_ND[0].device
        row0_f, row1_f, column0_f, column1_f = rectangles_F4[frames_f].unbind(1)
        height_f, width_f = row1_f - row0_f, column1_f - column0_f
        owner, offset = ragged.expand(height_f * width_f)
        row, column = offset // width_f[owner], offset % width_f[owner]
        cell = (row0_f[owner] + row) * grid + column0_f[owner] + column

        resized = [
            resize_cells(cells_ND, slots, frames_f[owner], cell, round(slots.shape[1] ** 0.5), grid)
            for cells_ND, slots in zip(groups_ND, slots_FQ, strict=True)
        ]
        projected = self.projector(torch.cat(resized, dim=1))
        counts_f = height_f * (width_f + 1)
        place = ragged.starts(counts_f)[owner] + row * (width_f[owner] + 1) + column
        total = int(counts_f.sum())
        tokens = self.newline.to(projected.dtype).expand(total, -1).index_copy(0, place.to(device), projected)
        if not self.config.frame_pos:
            return tokens
        position_fC = frame_position(times_F[frames_f].to(device), tokens.shape[1], self.config.rules)
        return tokens + position_fC.to(tokens.dtype)[frames_of(counts_f).to(device)]


def compress(
    frame_tokens: FrameTokens,
    groups_ND: Sequence[Tensor],
    plan: CellPlan,
    shape: MediaShape,
    regime: Regime,
    kept_counts_V: Tensor,
    times_F: Tensor,
    question_VC: Tensor,
) -> VisualTokens:
    """Visual sequences of all media under their regimes.

    Args:
        groups_ND: aggregator output for the cells of ``plan``.
        kept_counts_V, times_F: kept frames per medium and their index among the sampled frames, on the CPU.
        question_VC: mean text embedding that guides resolution, one row per medium.
    """
    config = frame_tokens.config
    medium_F = frames_of(kept_counts_V)
    base_full_F = regime.base_full_V[medium_F]
    count_F = torch.where(base_full_F, shape.full_tokens_V[medium_F], shape.low_tokens_V[medium_F])

    def render(grid: int, rectangles_V4: Tensor, frames_f: Tensor) -> Tensor:
        return frame_tokens(groups_ND, plan.slots_FQ, grid, rectangles_V4[medium_F], times_F, frames_f)

    full_frames, low_frames = base_full_F.nonzero()[:, 0], (~base_full_F).nonzero()[:, 0]
    pieces = []
    if len(full_frames):
        pieces.append((full_frames, render(config.full_grid, shape.full_rectangles_V4, full_frames)))
    if len(low_frames):
        pieces.append((low_frames, render(config.low_grid, shape.low_rectangles_V4, low_frames)))
    embeds_LC = _interleave(pieces, count_F, question_VC)

    upgraded_F = torch.zeros_like(base_full_F)
    scores_F = None
    if bool((regime.num_upgraded_V > 0).any()):
        scores_F = frame_scores(embeds_LC, count_F, question_VC[medium_F.to(question_VC.device)])
        upgraded_F = _best_frames(scores_F.cpu(), medium_F, regime.num_upgraded_V)
        upgraded_frames = upgraded_F.nonzero()[:, 0]
        upgraded_LC = render(config.full_grid, shape.full_rectangles_V4, upgraded_frames)
        rest_frames = (~upgraded_F).nonzero()[:, 0]
        rest_LC = embeds_LC[(~upgraded_F)[frames_of(count_F)].to(embeds_LC.device)]
        count_F = torch.where(upgraded_F, shape.full_tokens_V[medium_F], count_F)
        embeds_LC = _interleave([(upgraded_frames, upgraded_LC), (rest_frames, rest_LC)], count_F, question_VC)

    frame_L = frames_of(count_F)
    drop_similarity = None
    if bool(regime.drop_V.any()):
        keep_L, drop_similarity = drop_tokens(
            embeds_LC, count_F, kept_counts_V, regime, config.drop_threshold, config.rules
        )
        embeds_LC, frame_L = embeds_LC[keep_L.to(embeds_LC.device)], frame_L[keep_L]
    counts_V = torch.bincount(medium_F[frame_L], minlength=len(kept_counts_V))
    return VisualTokens(embeds_LC, counts_V, upgraded_F, scores_F, drop_similarity)


def frame_scores(embeds_LC: Tensor, count_F: Tensor, question_FC: Tensor) -> Tensor:
    """How much the question points to each frame: mean over its tokens of the dot product, float32 (F,).

    The published mean over all token pairs is bilinear, so it equals the product of the two means.
    """
    owner_L = frames_of(count_F).to(embeds_LC.device)
    mean_FC = ragged.sums(embeds_LC.float(), owner_L, len(count_F)) / count_F.to(embeds_LC.device)[:, None]
    return (mean_FC * question_FC.float()).sum(1)


def drop_tokens(
    embeds_LC: Tensor,
    count_F: Tensor,
    kept_counts_V: Tensor,
    regime: Regime,
    threshold: float,
    rules: Semantics,
) -> tuple[Tensor, Tensor]:
    """Spatial token compression: which tokens stay in the media that are over budget.

    In chunks of 8 frames the first frame keeps all tokens; a later token stays while its cosine similarity to the
    first frame's token at the same place is below ``threshold``. What still exceeds the budget is cut [Q15].

    Returns:
        bool (L,) on the CPU, true for tokens that stay; and the similarity of each token that was compared.
    """
    medium_F, place_F = ragged.expand(kept_counts_V)
    frame_L, offset_L = ragged.expand(count_F)
    medium_L = medium_F[frame_L]
    first_F = torch.arange(len(medium_F)) - place_F % CHUNK_FRAMES
    reference_L = ragged.starts(count_F)[first_F[frame_L]] + offset_L
    drop_L = regime.drop_V[medium_L] & (first_F[frame_L] != frame_L)

    compared = drop_L.nonzero()[:, 0]
    keep_L = torch.ones_like(drop_L)
    similarity = token_similarity(embeds_LC, compared, reference_L[compared])
    keep_L[compared] = (similarity < threshold).cpu()

    kept_V = torch.bincount(medium_L[keep_L], minlength=len(kept_counts_V))
    over_V = regime.drop_V & (kept_V > regime.budget_V)
    if not bool(over_V.any()):
        return keep_L, similarity
    if not rules.overflow_cuts_tails:
        limit_V = torch.where(over_V, regime.budget_V, kept_V)
        rank_L = ragged.ranks(keep_L, medium_L, len(kept_V))
        return keep_L & thin_evenly(kept_V, limit_V, medium_L, rank_L), similarity

    chunks_V = -(-kept_counts_V // CHUNK_FRAMES)
    excess_V = torch.where(over_V, -(-(kept_V - regime.budget_V) // chunks_V.clamp(min=1)), 0)
    chunk_F = ragged.starts(chunks_V)[medium_F] + place_F // CHUNK_FRAMES
    chunk_L = chunk_F[frame_L]
    kept_in_chunk = torch.bincount(chunk_L[keep_L], minlength=int(chunks_V.sum()))
    keep_L &= ragged.ranks(keep_L, chunk_L, len(kept_in_chunk)) < kept_in_chunk[chunk_L] - excess_V[medium_L]
    kept_V = torch.bincount(medium_L[keep_L], minlength=len(kept_counts_V))
    end_V = torch.where(regime.budget_V < 0, kept_V + regime.budget_V, regime.budget_V)
    keep_L &= ~over_V[medium_L] | (ragged.ranks(keep_L, medium_L, len(kept_V)) < end_V[medium_L])
    return keep_L, similarity


def token_similarity(embeds_LC: Tensor, tokens: Tensor, references: Tensor) -> Tensor:
    """Cosine similarity of tokens to their references, each norm floored at 1e-8, float32."""
    device = embeds_LC.device
    return functional.cosine_similarity(
        embeds_LC[tokens.to(device)].float(), embeds_LC[references.to(device)].float(), dim=1, eps=1e-8
    )


def frame_position(times_F: Tensor, width: int, rules: Semantics) -> Tensor:
    """Sinusoid of the frame index, float32 (F, C); odd channels are cos(sin) when published [Q12]."""
    pair = torch.arange(width, device=times_F.device) // 2 * 2
    frequency_C = 1 / torch.pow(torch.tensor(10000.0, device=times_F.device), pair / width)
    angle_FC = times_F[:, None].float() * frequency_C
    sine_FC = angle_FC.sin()
    odd_C = torch.arange(width, device=times_F.device) % 2 == 1
    return torch.where(odd_C, sine_FC.cos() if rules.cosine_of_sine else angle_FC.cos(), sine_FC)


def _covered(grid: int, rectangles_V4: Tensor) -> Tensor:
    """Cells of a grid inside each rectangle: bool (V, grid*grid)."""
    row0_V, row1_V, column0_V, column1_V = rectangles_V4[:, :, None].unbind(1)
    line = torch.arange(grid)
    rows = (line >= row0_V) & (line < row1_V)
    columns = (line >= column0_V) & (line < column1_V)
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


def _sources(wanted_VT: Tensor, query_grid: int, grid: int) -> Tensor:
    """Query cells that the wanted cells of a resized grid read: bool (V, grid*grid) -> (V, query_grid**2)."""
    cells_TK, weights_TK = geometry.bilinear_taps(query_grid, grid)
    reads_TQ = torch.zeros(grid * grid, query_grid * query_grid)
    reads_TQ.scatter_add_(1, cells_TK, (weights_TK > 0).float())
    return wanted_VT.float() @ reads_TQ > 0


def resize_cells(cells_ND: Tensor, slots_FQ: Tensor, frame: Tensor, cell: Tensor, source: int, target: int) -> Tensor:
    """Bilinear values at ``cell`` of the resized grid of ``frame``: (wanted,) indices -> (wanted, D)."""
    taps_TK, weights_TK = geometry.bilinear_taps(source, target)
    device = cells_ND.device
    if taps_TK.shape[1] == 1:
        return cells_ND[slots_FQ[frame, cell].to(device)]
    rows = slots_FQ[frame[:, None], taps_TK[cell]]
    weights = weights_TK[cell]
    rows = torch.where(weights > 0, rows, rows[:, :1])  # an unread neighbour may not have been aggregated
    values = cells_ND[rows.to(device)].float() * weights.to(device)[:, :, None]
    return values.sum(1).to(cells_ND.dtype)


def _interleave(pieces: Sequence[tuple[Tensor, Tensor]], count_F: Tensor, like: Tensor) -> Tensor:
    """Token lists of disjoint sets of frames merged into frame order."""
    pieces = [(frames, tokens) for frames, tokens in pieces if len(frames)]
    if not pieces:
        return like.new_zeros(0, like.shape[-1])
    if len(pieces) == 1:
        return pieces[0][1]
    first_F = ragged.starts(count_F)
    merged = pieces[0][1].new_empty(int(count_F.sum()), pieces[0][1].shape[1])
    for frames, tokens in pieces:
        owner, offset = ragged.expand(count_F[frames])
        merged = merged.index_copy(0, (first_F[frames][owner] + offset).to(merged.device), tokens)
    return merged


def _best_frames(scores_F: Tensor, medium_F: Tensor, wanted_V: Tensor) -> Tensor:
    """The ``wanted`` highest-scoring frames of each medium: bool (F,); ties go to the earlier frame."""
    order = torch.argsort(scores_F, descending=True, stable=True)
    order = order[torch.argsort(medium_F[order], stable=True)]
    counts_V = torch.bincount(medium_F, minlength=len(wanted_V))
    rank = torch.arange(len(order)) - ragged.starts(counts_V)[medium_F[order]]
    best_F = torch.zeros_like(medium_F, dtype=torch.bool)
    best_F[order] = rank < wanted_V[medium_F[order]]
    return best_F
