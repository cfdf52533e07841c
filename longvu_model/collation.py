"""Batches of training samples (SEMANTICS section 16.3), with the accidents of the release or without them.

Shapes: B samples, T ids, M longest sequence, F frames of all media, V media, S side of a full-resolution frame,
G side of the towers' common grid, r = G // S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longvu_model import geometry
from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, LongVUConfig, Semantics
from longvu_model.labels import LabelledIds
from longvu_model.padding import pad_rows
from longvu_model.training_samples import TrainingSample, UnusableSample


@dataclass(frozen=True)
class Collator:
    """Samples to a batch of model inputs.

    Args:
        max_length: longest sequence M.
        pad_token_id: fills the shorter ones.
        full_grid: side S of a full-resolution frame.
        token_grid: side G of the towers' common grid; a multiple of ``full_grid``.
        rules: which quirks to keep.
        padding_side: of corrected batches; the release pads on the right.
        image_position: where the release puts the dummy image of a sample without a medium [Q22].
    """

    max_length: int
    pad_token_id: int
    full_grid: int
    token_grid: int
    rules: Semantics
    padding_side: str = "right"
    image_position: int = 91

    @classmethod
    def from_config(cls, config: LongVUConfig, pad_token_id: int) -> Collator:
        """The collator that fits a model; its ``max_sequence_length`` must be set."""
        if config.max_sequence_length is None:
            raise ValueError("max_sequence_length is None: set it, training needs a longest sequence")
        return cls(
            max_length=config.max_sequence_length,
            pad_token_id=pad_token_id,
            full_grid=config.full_grid,
            token_grid=config.token_grid,
            rules=config.rules,
            padding_side=config.padding_side,
        )

    def __call__(self, samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
        """Model inputs of a batch.

        Returns:
            ``input_ids``, ``labels``, ``position_ids`` int64 and ``attention_mask`` bool, all (B, T); the media as in
            :func:`longvu_model.image_processing.pixel_inputs`, and ``size_swapped`` bool (V,), see
            :class:`TrainingSample`; no media inputs where no sample has a medium. Published batches have T = M and
            ``aux_attention_mask_0`` and ``_1``, bool (B, S*S, r*r), which the model ignores.

        Raises:
            UnusableSample: under corrected semantics, a sample whose slots and media differ in number.
        """
        batch = self._published_text(samples) if self.rules.placeholder_zeros else self._text(samples)
        return {**batch, **_media(samples)}

    def _text(self, samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
        """Rows padded to the longest sample, at most M."""
        ids = [sample.text.input_ids[: self.max_length] for sample in samples]
        labels = [sample.text.labels[: self.max_length] for sample in samples]
        for sample, row in zip(samples, ids, strict=True):
            slots, media = row.count(IMAGE_TOKEN_INDEX), int(sample.pixels is not None)
            if slots != media:
                raise UnusableSample(sample.index, None, f"{slots} <image> slots within {len(row)} ids, {media} media")
        mask_BT = pad_rows([[1] * len(row) for row in ids], 0, self.padding_side).bool()
        return {
            "input_ids": pad_rows(ids, self.pad_token_id, self.padding_side),
            "labels": pad_rows(labels, IGNORE_INDEX, self.padding_side),
            "attention_mask": mask_BT,
            "position_ids": (mask_BT.cumsum(1) - 1).clamp(min=0),
        }

    def _published_text(self, samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
        """Rows of length M with the dummy slot and the placeholder zeros of the release [Q22, Q23]."""
        pairs_V2 = torch.tensor([sample.published_size for sample in samples]).double()
        rectangles_V4 = geometry.content_rectangles(self.full_grid, pairs_V2).tolist()
        rows = [
            self._published_row(sample.text, rectangle)
            for sample, rectangle in zip(samples, rectangles_V4, strict=True)
        ]
        names = ("input_ids", "labels", "attention_mask", "position_ids")
        columns = zip(*rows, strict=True)
        batch = {name: torch.from_numpy(np.stack(column)) for name, column in zip(names, columns, strict=True)}
        windows = geometry.window_masks(self.token_grid, self.full_grid, pairs_V2)
        return {**batch, "aux_attention_mask_0": windows, "aux_attention_mask_1": windows.clone()}

    def _published_row(self, text: LabelledIds, rectangle: Sequence[int]) -> tuple[np.ndarray, ...]:
        ids = _fit(text.input_ids, self.max_length, self.pad_token_id)
        labels = _fit(text.labels, self.max_length, IGNORE_INDEX)
        mask = ids != self.pad_token_id
        if IMAGE_TOKEN_INDEX not in ids:
            at = min(self.image_position, self.max_length)
            ids = np.insert(ids, at, IMAGE_TOKEN_INDEX)
            labels = np.insert(labels, at, IGNORE_INDEX)
            mask = np.insert(mask, at, False)
        row = _expand_slots(ids, labels, mask, _placeholder_mask(self.full_grid, rectangle))
        return tuple(column[: self.max_length] for column in row)


def _fit(values: Sequence[int], length: int, filler: int) -> np.ndarray:
    fitted = np.full(length, filler, dtype=np.int64)
    fitted[: len(values)] = values[:length]
    return fitted


def _placeholder_mask(side: int, rectangle: Sequence[int]) -> np.ndarray:
    """Which of the S * (S + 1) placeholder positions lie on the picture; a kept row keeps its newline column."""
    row0, row1, column0, column1 = rectangle
    visible = np.zeros((side, side + 1), bool)
    visible[row0:row1, column0:column1] = True
    visible[row0:row1, side] = True
    return visible.reshape(-1)


def _expand_slots(
    ids: np.ndarray, labels: np.ndarray, mask: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels, mask and positions with zeros behind each slot, ``len(visible)`` positions with the slot.

    A masked slot hides its zeros and gets no positions; otherwise the hidden zeros repeat the position before them.
    """
    repeats = np.where(ids == IMAGE_TOKEN_INDEX, len(visible), 1)
    origin = np.repeat(np.arange(len(ids)), repeats)
    offset = np.arange(len(origin)) - np.repeat(repeats.cumsum() - repeats, repeats)
    in_slot = ids[origin] == IMAGE_TOKEN_INDEX
    real = mask[origin]
    expanded_ids = np.where(in_slot & (offset > 0), 0, ids[origin])
    expanded_labels = np.where(in_slot, IGNORE_INDEX, labels[origin])
    expanded_mask = real & (visible[np.where(in_slot, offset, 0)] | ~in_slot)
    # Padding behind the text goes on counting; only hidden placeholders do not.
    positions = np.where(in_slot, expanded_mask, True).cumsum() - 1
    return expanded_ids, expanded_labels, expanded_mask, np.where(in_slot & ~real, 0, positions)


def _media(samples: Sequence[TrainingSample]) -> dict[str, Tensor]:
    media = [(sample, *sample.pixels) for sample in samples if sample.pixels is not None]
    if not media:
        return {}
    return {
        "pixel_values_siglip": torch.cat([siglip for _, siglip, _ in media]),
        "pixel_values_dino": torch.cat([dino for _, _, dino in media]),
        "frame_counts": torch.tensor([len(siglip) for _, siglip, _ in media]),
        "image_sizes": torch.tensor([sample.size for sample, _, _ in media]),
        "is_video": torch.tensor([sample.is_video for sample, _, _ in media]),
        "size_swapped": torch.tensor([sample.size_swapped for sample, _, _ in media]),
    }
