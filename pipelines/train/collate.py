"""Prepared samples -> what the packed forward pass takes, on the device.

Nothing is padded and nothing joined here: :mod:`longvu_model.packing` lays the merged sequences end to end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longvu_model.config import IGNORE_INDEX
from longvu_model.packing import SampleInputs
from longvu_model.sight import Media
from pipelines.train.prepared import PreparedSample


@dataclass(frozen=True)
class Bin:
    """One micro-batch: samples that share a row, and their inputs on the device, in the same order."""

    samples: Sequence[PreparedSample]
    inputs: Sequence[SampleInputs]


def collate(samples: Sequence[PreparedSample], device: torch.device, dtype: torch.dtype) -> Bin:
    """A bin on ``device``; features and pixels become ``dtype``, ids and labels stay on the CPU, where they are read.

    An empty list gives an empty bin, which trains nothing.
    """
    inputs = [
        SampleInputs(sample.input_ids[None], sample.labels[None], sample.media and _moved(sample.media, device, dtype))
        for sample in samples
    ]
    return Bin(samples, inputs)


def filler() -> SampleInputs:
    """A token without a target: what a rank computes when others have more bins than it has."""
    return SampleInputs(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORE_INDEX), None)


def _moved(media: Media, device: torch.device, dtype: torch.dtype) -> Media:
    large = ("pixel_values_siglip", "pixel_values_dino", "siglip_features", "dino_features")
    tensors: dict[str, Tensor | None] = {name: getattr(media, name) for name in large}
    moved = {
        name: None if tensor is None else tensor.to(device, dtype, non_blocking=True)
        for name, tensor in tensors.items()
    }
    return dataclasses.replace(media, **moved)  # type: ignore[arg-type]
