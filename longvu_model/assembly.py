"""Text with holes plus visual sequences -> one padded batch of embeddings (SEMANTICS sections 4, 10, 13).

Positions are worked out on the CPU from the ids; embeddings are written once, at their place.

Shapes: B rows, T ids per row, V media, L visual tokens of all media, S length of the merged batch, C model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from longvu_model import ragged
from longvu_model.config import IGNORE_INDEX, LongVUConfig
from longvu_model.semantics import Semantics


class SlotRules(Protocol):
    """A record of quirks, as far as assembly reads it."""

    @property
    def dummy_image_for_text(self) -> bool: ...


@dataclass(frozen=True)
class TextLayout:
    """What the ids alone say; tensors on the CPU."""

    ids_BT: Tensor
    is_slot_BT: Tensor
    is_text_BT: Tensor
    """Real text: neither a slot nor masked out."""
    num_text_B: Tensor
    """Text tokens that enter the sequence."""
    budget_length_B: Tensor
    """Text length for frame budgets: the constant-pad look-up [Q5], or ``num_text_B``."""


@dataclass(frozen=True)
class MergedInputs:
    """Language model inputs; a companion is ``None`` where the rules say so."""

    inputs_embeds: Tensor
    """(B, S, C)."""
    attention_mask: Tensor | None
    """bool (B, S)."""
    position_ids: Tensor | None
    """int64 (B, S), 0 at padding."""
    labels: Tensor | None
    """int64 (B, S)."""


def text_layout(input_ids: Tensor, attention_mask: Tensor | None) -> TextLayout:
    """Text lengths and slots of a batch of ids (B, T); masked ids are never embedded, slots are never masked.

    A negative id is a slot, whatever the kind of its medium.
    """
    ids_BT = input_ids.cpu()
    is_slot_BT = ids_BT < 0
    is_text_BT = ~is_slot_BT
    if attention_mask is not None:
        is_text_BT &= attention_mask.bool().cpu()
    num_text_B = is_text_BT.sum(1)
    return TextLayout(ids_BT, is_slot_BT, is_text_BT, num_text_B, num_text_B)


def read_text(config: LongVUConfig, input_ids: Tensor, attention_mask: Tensor | None) -> TextLayout:
    """As :func:`text_layout`, with the text length that LongVU's frame budgets go by."""
    layout = text_layout(input_ids, attention_mask)
    if not config.rules.text_length_by_pad_id:
        return layout
    is_pad_BT = layout.ids_BT == config.budget_pad_id
    by_pad_B = torch.where(is_pad_BT.any(1), is_pad_BT.int().argmax(1), layout.ids_BT.shape[1])
    return replace(layout, budget_length_B=by_pad_B)


def rows_of_media(layout: TextLayout, num_media: int, rules: SlotRules) -> tuple[Tensor, Tensor]:
    """Batch row and slot of every medium, in the order in which slots consume them.

    Returns:
        row (V,) and flat slot position in the (B, T) ids (V,); -1 for the medium that a row without a slot consumes
        and ignores [Q25].

    Raises:
        ValueError: the number of media does not match the number of slots.
    """
    slots_B = layout.is_slot_BT.sum(1)
    consumed_B = slots_B.clamp(min=1) if rules.dummy_image_for_text else slots_B
    row_V = ragged.expand(consumed_B)[0]
    if len(row_V) != num_media:
        raise ValueError(
            f"{num_media} images and videos for {len(row_V)} places in the text "
            f"(per row: {consumed_B.tolist()}); give one medium for each <image> marker"
        )
    positions = layout.is_slot_BT.flatten().nonzero()[:, 0]
    slot_V = torch.full((num_media,), -1)
    slot_V[slots_B[row_V] > 0] = positions
    return row_V, slot_V


def mean_question(
    layout: TextLayout, embed: Callable[[Tensor], Tensor], labels: Tensor | None, rules: Semantics
) -> Tensor:
    """Mean embedding of the text after the last slot of each row: (B, C).

    Answers that are being learned are left out unless the published rule keeps them. Zero where nothing is left.
    """
    slots_after_BT = layout.is_slot_BT.flip(1).cumsum(1).flip(1)
    question_BT = layout.is_text_BT & (slots_after_BT == 0)
    if labels is not None and not rules.answers_guide_resolution:
        question_BT = question_BT & (labels.cpu() == IGNORE_INDEX)
    row, column = question_BT.nonzero(as_tuple=True)
    embeds = embed(layout.ids_BT[row, column])
    count_B = question_BT.sum(1).clamp(min=1).to(embeds.device)
    return ragged.sums(embeds.float(), row.to(embeds.device), len(question_BT)) / count_B[:, None]


def merge(
    max_length: int | None,
    layout: TextLayout,
    embed: Callable[[Tensor], Tensor],
    visual_LC: Tensor,
    counts_V: Tensor,
    row_V: Tensor,
    slot_V: Tensor,
    *,
    labels: Tensor | None = None,
    with_mask: bool = False,
    with_positions: bool = False,
    pad_left: bool = False,
) -> MergedInputs:
    """Replaces every slot by its visual tokens, truncates to the sequence limit, pads to the longest row.

    Args:
        max_length: positions of a row at most; ``None`` for no limit.
        embed: ids (n,) on the CPU -> embeddings (n, C) on the model's device.
        visual_LC, counts_V: packed visual tokens and their number per medium (CPU).
        row_V, slot_V: from :func:`rows_of_media`.
        labels: (B, T); visual tokens and padding get -100.
        with_mask, with_positions: whether to return these companions.
    """
    batch, num_ids = layout.ids_BT.shape
    used_V = slot_V >= 0
    size_BT = layout.is_text_BT.long().flatten()
    size_BT[slot_V[used_V]] = counts_V[used_V]
    size_BT = size_BT.view(batch, num_ids)
    place_BT = size_BT.cumsum(1) - size_BT
    length_B = size_BT.sum(1)
    if max_length is not None:
        length_B = length_B.clamp(max=max_length)
    longest = int(length_B.max()) if batch else 0
    shift_B = longest - length_B if pad_left else torch.zeros_like(length_B)
    start_BT = place_BT + shift_B[:, None] + torch.arange(batch)[:, None] * longest

    text_BT = layout.is_text_BT & (place_BT < length_B[:, None])
    owner_L, offset_L = ragged.expand(counts_V)
    fits_L = used_V[owner_L] & (place_BT.flatten()[slot_V][owner_L] + offset_L < length_B[row_V[owner_L]])
    visual_at = (start_BT.flatten()[slot_V][owner_L] + offset_L)[fits_L]

    text_embeds = embed(layout.ids_BT[text_BT])
    device = text_embeds.device
    embeds = text_embeds.new_zeros(batch * longest, text_embeds.shape[1])
    embeds = embeds.index_copy(0, start_BT[text_BT].to(device), text_embeds)
    if len(visual_at):
        kept_LC = visual_LC if bool(fits_L.all()) else visual_LC[fits_L.to(device)]
        embeds = embeds.index_copy(0, visual_at.to(device), kept_LC.to(embeds.dtype))

    place_BS = torch.arange(longest) - shift_B[:, None]
    real_BS = (place_BS >= 0) & (place_BS < length_B[:, None])
    merged_labels = None
    if labels is not None:
        flat_labels = torch.full((batch * longest,), IGNORE_INDEX)
        flat_labels[start_BT[text_BT]] = labels.cpu()[text_BT]
        merged_labels = flat_labels.view(batch, longest).to(device)
    return MergedInputs(
        embeds.view(batch, longest, -1),
        real_BS.to(device) if with_mask else None,
        torch.where(real_BS, place_BS, 0).to(device) if with_positions else None,
        merged_labels,
    )
