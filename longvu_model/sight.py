"""What goes into the visual path, what is half way, and what comes out: plain records without behaviour.

Shapes: V media, F frames of all media back to back, N aggregated cells.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longvu_model.assembly import MergedInputs
from longvu_model.compression import CellPlan, VisualTokens
from longvu_model.regimes import MediaShape, Regime


@dataclass(frozen=True)
class Media:
    """The images and videos of a batch, back to back in the order of their slots.

    Pixels or features, for each tower; SigLIP features may cover only the frames that will be kept.
    """

    frame_counts: Tensor
    """int64 (V,), frames per medium, 1 for an image."""
    image_sizes: Tensor
    """int64 (V, 2), true (height, width) in pixels."""
    is_video: Tensor
    """bool (V,)."""
    pixel_values_siglip: Tensor | None = None
    """(F, 3, side, side)."""
    pixel_values_dino: Tensor | None = None
    """(F, 3, side, side)."""
    siglip_features: Tensor | None = None
    """(F or kept frames, G*G, width)."""
    dino_features: Tensor | None = None
    """(F, G*G, width)."""
    frame_times: Tensor | None = None
    """int64 (F,), index of each frame among its medium's sampled frames, when some were left out beforehand."""
    size_swapped: Tensor | None = None
    """bool (V,), see :func:`longvu_model.geometry.size_pairs`; all videos by default."""
    preselected: bool = False
    """Whether temporal reduction is already done, so that every frame given is kept."""


@dataclass(frozen=True)
class EncodedMedia:
    """Kept frames after towers and aggregator: all that is expensive, and independent of the question's wording.

    It can be reused for every question of at most ``num_text_B`` tokens.
    """

    num_text_B: Tensor
    """Text tokens per row that the budgets leave room for."""

    shape: MediaShape
    regime: Regime
    plan: CellPlan
    groups_ND: list[Tensor]
    """Aggregator output per query group, (wanted cells, D)."""
    kept_frames_F: Tensor
    """int64, packed index of every kept frame among all frames given, on the CPU."""
    kept_counts_V: Tensor
    times_F: Tensor
    """int64, index of every kept frame among its medium's sampled frames (0 for an image), on the CPU."""


@dataclass(frozen=True)
class Sight:
    """What the model made of its inputs: the merged batch and how the visual tokens came about."""

    merged: MergedInputs
    media: EncodedMedia
    visual: VisualTokens
