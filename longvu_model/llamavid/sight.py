"""What goes into the visual path, what is half way, and what comes out: plain records without behaviour.

Shapes: V media, F frames of all media back to back, S views, L word pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from longvu_model.assembly import MergedInputs
from longvu_model.llamavid.compression import VisualTokens


@dataclass(frozen=True)
class Media:
    """The images and videos of a batch, back to back: pixels, or features that a tower gave before."""

    frame_counts: Tensor
    """int64 (V,), frames per medium, 1 for an image."""
    pixel_values: Tensor | None = None
    """(F, 3, side, side)."""
    features: Tensor | None = None
    """(F, patches or 1 + patches, tower width)."""


@dataclass(frozen=True)
class Views:
    """Looks at media, in the order of their slots: which medium, and the text that guides the eye."""

    guide_ids: Tensor
    """int64 (S, L), word pieces of the guiding text, padded on the right."""
    guide_mask: Tensor
    """(S, L), true for real ones."""
    media: Tensor
    """int64 (S,), the medium of each view."""


@dataclass(frozen=True)
class GuidedMedia:
    """Media with the looks at them: what a training sample shows."""

    media: Media
    views: Views
    token_slots: bool = False
    """See :meth:`longvu_model.llamavid.modeling.LlamaVidModel.see`."""


@dataclass(frozen=True)
class EncodedMedia:
    """Frames after the tower: all that is expensive, and independent of the question."""

    frame_counts: Tensor
    """int64 (V,), on the CPU."""
    features: Tensor
    """(F, T, tower width)."""
    stored: bool
    """Whether they were encoded at another time; published models see stored features without the class token."""


@dataclass(frozen=True)
class Sight:
    """What the model made of its inputs: the merged batch and how the visual tokens came about."""

    merged: MergedInputs
    media: EncodedMedia
    visual: VisualTokens
