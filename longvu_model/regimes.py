"""How many tokens a medium may cost, and which of the three regimes that puts it in (SEMANTICS sections 5, 6, 11).

Everything is a function of counts: sampled frames, text tokens, kept frames. No feature is looked at, so a regime is
known before anything expensive runs.

* ``full``: every kept frame at full resolution.
* ``mixed``: every kept frame at low resolution; those that the question points to are upgraded to full.
* ``low``: too many kept frames even at low resolution; redundant tokens are dropped afterwards.

Shapes: B rows, V media.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longvu_model import geometry
from longvu_model.config import LongVUConfig

FULL, MIXED, LOW = 0, 1, 2
REGIME_NAMES = ("full", "mixed", "low")

_UNLIMITED = 1 << 40


@dataclass(frozen=True)
class MediaShape:
    """What is known of each medium before it is encoded; int64 or bool tensors (V,) on the CPU."""

    row_V: Tensor
    """Batch row the medium belongs to."""
    is_video_V: Tensor
    frame_counts_V: Tensor
    """Sampled frames; 1 for an image."""
    pairs_V2: Tensor
    """Size pair read as (width, height), float64, see :func:`geometry.size_pairs`."""
    full_rectangles_V4: Tensor
    low_rectangles_V4: Tensor
    """Crops on the full and the low grid; the low one equals the full one where there is no low resolution."""

    @property
    def full_tokens_V(self) -> Tensor:
        """Tokens of one frame at full resolution, newlines included."""
        return _tokens(self.full_rectangles_V4)

    @property
    def low_tokens_V(self) -> Tensor:
        """Tokens of one frame at low resolution, newlines included."""
        return _tokens(self.low_rectangles_V4)


@dataclass(frozen=True)
class Regime:
    """What to do with the kept frames of each medium; tensors (V,) on the CPU."""

    kind_V: Tensor
    """FULL, MIXED or LOW."""
    base_full_V: Tensor
    """Whether the base sequence consists of full-resolution frames."""
    num_upgraded_V: Tensor
    """Frames of a low-resolution base that the question upgrades."""
    drop_V: Tensor
    """Whether redundant tokens are dropped."""
    budget_V: Tensor
    """Visual tokens that fit; negative under published semantics when the text alone is too long."""

    @property
    def names(self) -> list[str]:
        return [REGIME_NAMES[kind] for kind in self.kind_V.tolist()]


def media_shape(
    config: LongVUConfig, row_V: Tensor, is_video_V: Tensor, frame_counts_V: Tensor, image_sizes_V2: Tensor
) -> MediaShape:
    """Geometry of every medium.

    Args:
        image_sizes_V2: true (height, width) in pixels.

    Raises:
        ValueError: a size is not positive, or (published semantics) vanishes on the low grid.
    """
    rules = config.rules
    pairs_V2 = geometry.size_pairs(image_sizes_V2, is_video_V, rules)
    full_V4 = geometry.crop_rectangles(config.full_grid, pairs_V2, rules)
    low_V4 = full_V4
    if config.mixed_resolution:
        low_pairs_V2 = geometry.low_pairs(pairs_V2, config.full_grid, config.low_grid, rules)
        low_V4 = geometry.crop_rectangles(config.low_grid, low_pairs_V2, rules)
    return MediaShape(row_V, is_video_V, frame_counts_V, pairs_V2, full_V4, low_V4)


def needs_reduction(config: LongVUConfig, shape: MediaShape, text_length_B: Tensor) -> Tensor:
    """Whether a medium has more frames than fit at its cheapest resolution: bool (V,); never for images.

    Args:
        text_length_B: text tokens per row, see :func:`longvu_model.assembly.read_text`.

    Raises:
        ValueError: a video, and the configuration has no ``max_sequence_length``.
    """
    if not bool(shape.is_video_V.any()):
        return torch.zeros_like(shape.is_video_V)
    if config.max_sequence_length is None:
        raise ValueError("max_sequence_length is not set: a video needs a token budget; set it, e.g. to 8192")
    videos_V = _video_rules(config, shape)
    room_V = _room(config, text_length_B)[shape.row_V]
    if config.rules.budgets_ignore_newlines:
        cells = config.low_grid**2 if config.mixed_resolution else config.full_grid**2
        return videos_V & (shape.frame_counts_V >= _frames_that_fit(room_V, cells))
    room_V = _shared(room_V, shape.row_V)
    cost_V = shape.low_tokens_V if config.mixed_resolution else shape.full_tokens_V
    return videos_V & (shape.frame_counts_V * cost_V > room_V)


def choose_regime(
    config: LongVUConfig, shape: MediaShape, kept_counts_V: Tensor, text_length_B: Tensor, num_text_B: Tensor
) -> Regime:
    """The regime of every medium after temporal reduction.

    Args:
        kept_counts_V: frames left per medium.
        text_length_B: text length for frame budgets (constant-pad look-up when published).
        num_text_B: text tokens that really enter the sequence.

    Raises:
        ValueError: published semantics, when full and low frames cost the same and mixing would divide by it [Q14].
    """
    if config.rules.regime_from_first_row:
        return _published_regime(config, shape, kept_counts_V, text_length_B, num_text_B)
    budget_V = _shared(_room(config, num_text_B)[shape.row_V], shape.row_V).clamp(min=0)
    full_cost_V = kept_counts_V * shape.full_tokens_V
    low_cost_V = kept_counts_V * shape.low_tokens_V
    fits_full_V = full_cost_V <= budget_V
    fits_low_V = low_cost_V <= budget_V
    kind_V = torch.where(fits_full_V, FULL, torch.where(fits_low_V, MIXED, LOW))
    base_full_V = fits_full_V | (not config.mixed_resolution)
    if config.rules.low_regime_keeps_full_tokens:
        base_full_V = base_full_V | (kind_V == LOW)
    gain_V = shape.full_tokens_V - shape.low_tokens_V
    upgrades_V = (budget_V - low_cost_V).div(gain_V.clamp(min=1), rounding_mode="floor").clamp(min=0)
    upgraded_V = torch.where(~base_full_V & (gain_V > 0), torch.minimum(upgrades_V, kept_counts_V), 0)
    drop_V = torch.where(base_full_V, full_cost_V, low_cost_V) > budget_V
    return Regime(kind_V, base_full_V, upgraded_V, drop_V, budget_V)


def _published_regime(
    config: LongVUConfig, shape: MediaShape, kept_counts_V: Tensor, text_length_B: Tensor, num_text_B: Tensor
) -> Regime:
    """One regime for the batch from row 0 [Q10], then budgets per row; images alone count as mixed."""
    num_media = len(kept_counts_V)
    videos = bool(shape.is_video_V.any())
    kind = MIXED
    if videos:
        room = _room(config, text_length_B)[:1]
        if bool(kept_counts_V[0] < _frames_that_fit(room, config.full_grid**2)):
            kind = FULL
        elif bool(kept_counts_V[0] > _frames_that_fit(room, config.low_grid**2)):
            kind = LOW
    base_full = not config.mixed_resolution or kind != MIXED
    budget_V = (_room(config, num_text_B) if videos else torch.zeros_like(num_text_B))[shape.row_V]

    first_V = torch.ones(num_media, dtype=torch.bool)
    first_V[1:] = shape.row_V[1:] != shape.row_V[:-1]
    budgeted_V = first_V & videos  # only a row's first medium is ever compared with the budget
    tokens_V = shape.full_tokens_V if base_full else shape.low_tokens_V
    spare_V = budget_V - kept_counts_V * tokens_V
    mixes_V = budgeted_V & (spare_V > 0) & (not base_full) & (config.full_grid > config.low_grid)
    gain_V = shape.full_tokens_V - shape.low_tokens_V
    if bool((mixes_V & (gain_V == 0)).any()):
        raise ValueError(
            "full and low resolution cost the same number of tokens for a medium of this shape, by which the "
            "published rule divides; use semantics='corrected' for such pictures"
        )
    upgraded_V = torch.where(mixes_V, spare_V.div(gain_V.abs().clamp(min=1), rounding_mode="floor"), 0)
    upgraded_V = torch.where(gain_V < 0, 0, torch.minimum(upgraded_V, kept_counts_V))
    return Regime(
        kind_V=torch.full((num_media,), kind),
        base_full_V=torch.full((num_media,), base_full),
        num_upgraded_V=upgraded_V,
        drop_V=budgeted_V & (spare_V < 0),
        budget_V=budget_V,
    )


def _video_rules(config: LongVUConfig, shape: MediaShape) -> Tensor:
    """Media under the video rules: all of a batch that contains a video when published, else the videos."""
    if config.rules.regime_from_first_row:
        return torch.ones_like(shape.is_video_V)
    return shape.is_video_V


def _room(config: LongVUConfig, text_tokens: Tensor) -> Tensor:
    limit = _UNLIMITED if config.max_sequence_length is None else config.max_sequence_length
    return limit - text_tokens - config.answer_reserve


def _frames_that_fit(room: Tensor, tokens_per_frame: int) -> Tensor:
    return room.div(tokens_per_frame, rounding_mode="floor").clamp(min=1)


def _shared(room_V: Tensor, row_V: Tensor) -> Tensor:
    """A row's room divided evenly among its media."""
    return room_V.div(torch.bincount(row_V)[row_V], rounding_mode="floor") if len(row_V) else room_V


def _tokens(rectangles_V4: Tensor) -> Tensor:
    row0_V, row1_V, column0_V, column1_V = rectangles_V4.unbind(1)
    return (row1_V - row0_V) * (column1_V - column0_V + 1)
