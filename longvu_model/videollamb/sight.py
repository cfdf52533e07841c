"""What goes into the visual path, what is half way, and what comes out: plain records without behaviour.

Shapes: V media, F frames of all media back to back.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longvu_model.assembly import MergedInputs
from longvu_model.videollamb.compression import VisualTokens


@dataclass(frozen=True)
class Media:
    """The images and videos of a batch, back to back in the order of their slots: pixels or features."""

    frame_counts: Tensor
    """int64 (V,), frames per medium, 1 for an image."""
    is_video: Tensor
    """bool (V,)."""
    pixel_values: Tensor | None = None
    """(F, 3, side, side)."""
    features: Tensor | None = None
    """(F, 1 + patches, width), of the tower of each medium's kind; pooled or not."""


@dataclass(frozen=True)
class EncodedMedia:
    """Visual tokens: all that is expensive. They do not depend on the question."""

    is_video: Tensor
    visual: VisualTokens


@dataclass(frozen=True)
class Sight:
    """What the model made of its inputs: the merged batch and the visual tokens in it."""

    merged: MergedInputs
    media: EncodedMedia
    visual: VisualTokens
