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
    config: LongVUConfig,
    row_V: Tensor,
    is_video_V: Tensor,
    frame_counts_V: Tensor,
    image_sizes_V2: Tensor,
    size_swapped_V: Tensor | None = None,
) -> MediaShape:
    """Geometry of every medium.

    Args:
        image_sizes_V2: true (height, width) in pixels.
        size_swapped_V: see :func:`geometry.size_pairs`; all videos by default.

    Raises:
        ValueError: a size is not positive, or (published semantics) vanishes on the low grid.
    """
    rules = config.rules
    swapped_V = is_video_V if size_swapped_V is None else size_swapped_V
    pairs_V2 = geometry.size_pairs(image_sizes_V2, swapped_V, rules)
    full_V4 = geometry.crop_rectangles(config.full_grid, pairs_V2, rules)
    low_V4 = full_V4
    if config.mixed_resolution:
        low_pairs_V2 = geometry.low_pairs(pairs_V2, config.full_grid, config.low_grid, rules)
        low_V4 = geometry.crop_rectangles(config.low_grid, low_pairs_V2, rules)
    return MediaShape(row_V, is_video_V, frame_counts_V, pairs_V2, full_V4, low_V4)


def needs_reduction(config: LongVUConfig, shape: MediaShape, text_length_B: Tensor) -> Tensor:
    """Whether a medium has more frames than fit at its cheapest resolution: bool (V,); never for images.

    Args:
        text_length_B: text length for frame budgets, see :class:`longvu_model.assembly.TextLayout`.

    Raises:
        ValueError: a video, and the configuration has no ``max_sequence_length``.
    """
    videos_V = _under_video_rules(config, shape)
    if config.max_sequence_length is None and bool(videos_V.any()):
        raise ValueError("max_sequence_length is not set: a video needs a token budget; set it, e.g. to 8192")
    room_V = _room(config, shape, text_length_B)
    if config.rules.budgets_ignore_newlines:
        cells = config.low_grid**2 if config.mixed_resolution else config.full_grid**2
        return videos_V & (shape.frame_counts_V >= _frames_that_fit(room_V, cells))
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
        ValueError: a frame costs the same at both resolutions and the rules divide by the difference [Q14].
    """
    rules = config.rules
    budget_V = _room(config, shape, num_text_B)
    if not rules.overflow_cuts_tails:
        budget_V = budget_V.clamp(min=0)
    full_V, low_V = shape.full_tokens_V, shape.low_tokens_V

    if rules.budgets_ignore_newlines:
        room_V = _room(config, shape, text_length_B)
        fits_full_V = kept_counts_V < _frames_that_fit(room_V, config.full_grid**2)
        fits_low_V = kept_counts_V <= _frames_that_fit(room_V, config.low_grid**2)
    else:
        fits_full_V = kept_counts_V * full_V <= budget_V
        fits_low_V = kept_counts_V * low_V <= budget_V
    kind_V = torch.where(fits_full_V, FULL, torch.where(fits_low_V, MIXED, LOW))
    if rules.regime_from_first_row:
        kind_V = kind_V[:1].expand_as(kind_V)

    budgeted_V = torch.ones_like(fits_full_V)
    if rules.first_medium_budget:
        budgeted_V[1:] = shape.row_V[1:] != shape.row_V[:-1]
    if rules.images_use_low_tokens:
        videos_V = _under_video_rules(config, shape)
        kind_V = torch.where(videos_V, kind_V, MIXED)
        budgeted_V &= videos_V

    base_full_V = (kind_V == FULL) | (not config.mixed_resolution)
    if rules.low_regime_keeps_full_tokens:
        base_full_V = base_full_V | (kind_V == LOW)
    spare_V = budget_V - kept_counts_V * torch.where(base_full_V, full_V, low_V)
    mixes_V = budgeted_V & ~base_full_V & (spare_V > 0) & (config.full_grid > config.low_grid)
    gain_V = full_V - low_V
    if rules.zero_gain_raises and bool((mixes_V & (gain_V == 0)).any()):
        raise ValueError(
            "full and low resolution cost the same number of tokens for a picture of this shape, by which the "
            "published rule divides; use semantics='corrected' for such pictures"
        )
    upgrades_V = spare_V.div(gain_V.clamp(min=1), rounding_mode="floor")
    upgraded_V = torch.where(mixes_V & (gain_V > 0), torch.minimum(upgrades_V, kept_counts_V), 0)
    return Regime(kind_V, base_full_V, upgraded_V, budgeted_V & (spare_V < 0), budget_V)


def _under_video_rules(config: LongVUConfig, shape: MediaShape) -> Tensor:
    """Media that are treated as videos: each by its kind, or all of a batch that contains a video."""
    if config.rules.regime_from_first_row:
        return shape.is_video_V.any().expand_as(shape.is_video_V)
    return shape.is_video_V


def _room(config: LongVUConfig, shape: MediaShape, text_tokens_B: Tensor) -> Tensor:
    """Tokens left for each medium (V,): all that the row's text leaves, or an equal share of it."""
    limit = _UNLIMITED if config.max_sequence_length is None else config.max_sequence_length
    room_V = (limit - config.answer_reserve - text_tokens_B)[shape.row_V]
    if config.rules.first_medium_budget or not len(room_V):
        return room_V
    return room_V.div(torch.bincount(shape.row_V)[shape.row_V], rounding_mode="floor")


def _frames_that_fit(room_V: Tensor, tokens_per_frame: int) -> Tensor:
    return room_V.div(tokens_per_frame, rounding_mode="floor").clamp(min=1)


def _tokens(rectangles_V4: Tensor) -> Tensor:
    row0_V, row1_V, column0_V, column1_V = rectangles_V4.unbind(1)
    return (row1_V - row0_V) * (column1_V - column0_V + 1)
