"""Which published quirks a model keeps: one frozen record, two instances.

As in :mod:`longvu_model.semantics`: ``PUBLISHED`` computes what released checkpoints were trained to compute,
``CORRECTED`` mends what is a defect. Code asks for a field, never for the name of the record. Section numbers are those
of the specification of the released code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Semantics:
    """One field per defect; ``True`` keeps the published behaviour."""

    class_token_by_parity: bool
    """[3] The first token is dropped from the visual tokens where their count is odd, which stands for "there is a
    class token": wrong for grids of odd sides. Corrected: dropped where there is one."""

    stored_features_lose_class_token: bool
    """[3] The Q-Former sees the class token of a frame that was just encoded, but not of a stored one, so the same
    video gives other tokens. Corrected: it always sees what is there."""

    grid_by_kernel: bool
    """[3] ``grid:g`` pools with kernel ``n // g``, which gives g cells per side only where g divides n (36 cells for
    g = 4 on a grid of 6), and drops what is left over. Corrected: g x g cells that cover the grid."""

    padding_is_embedded: bool
    """[4] Ids that the mask hides are embedded and keep their places. Corrected: they are left out."""

    mask_extended_in_front: bool
    """[4] The mask of a row grows by ones in front, which is right for padding behind only; no input mask, no mask;
    rows that grow by different amounts need labels. Corrected: the mask says where the row is, and is always made."""

    decoding_attends_padding: bool
    """[4] While decoding with a cache everything before is attended to, and rows are padded behind the prompt.
    Corrected: generation pads in front, and the mask holds."""

    dummy_image_for_text: bool
    """[4] A row without a slot consumes a visual input and ignores it."""

    early_subtitle_last: bool
    """[5] A subtitle that ends before the first frame goes to the last frame (index -1). Corrected: to the first."""

    digits_end_subtitle: bool
    """[5] A line of digits ends a subtitle, so a text of digits is lost; ``...`` is removed. Corrected: texts stay."""

    scaling_replaced: bool
    """[5] A longer context replaces an existing rotary factor by the ratio to the already scaled length, instead of
    scaling the original one."""

    labels_by_round_lengths: bool
    """[6] Labels are placed by counting ids of rounds, which drops the whole sample where the counts disagree.
    Corrected: the answer and its end are labelled where they are."""

    sampler_needs_text: bool
    """[7] Grouping by length raises where all samples have a medium, or none has."""

    inference_crops: bool
    """[1] Pictures are padded to a square in training, and cropped when asked about. Corrected: padded both times."""


PUBLISHED = Semantics(
    class_token_by_parity=True,
    stored_features_lose_class_token=True,
    grid_by_kernel=True,
    padding_is_embedded=True,
    mask_extended_in_front=True,
    decoding_attends_padding=True,
    dummy_image_for_text=True,
    early_subtitle_last=True,
    digits_end_subtitle=True,
    scaling_replaced=True,
    labels_by_round_lengths=True,
    sampler_needs_text=True,
    inference_crops=True,
)

CORRECTED = Semantics(
    class_token_by_parity=False,
    stored_features_lose_class_token=False,
    grid_by_kernel=False,
    padding_is_embedded=False,
    mask_extended_in_front=False,
    decoding_attends_padding=False,
    dummy_image_for_text=False,
    early_subtitle_last=False,
    digits_end_subtitle=False,
    scaling_replaced=False,
    labels_by_round_lengths=False,
    sampler_needs_text=False,
    inference_crops=False,
)

SEMANTICS = {"published": PUBLISHED, "corrected": CORRECTED}
