"""Prepared samples -> what the packed forward pass takes, on the device.

Nothing is padded and nothing joined here: :mod:`longvu_model.packing` lays the merged sequences end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longvu_model.config import IGNORE_INDEX
from longvu_model.packing import SampleInputs
from pipelines.train.prepared import PreparedSample, with_features


@dataclass(frozen=True)
class Bin:
    """One micro-batch: samples that share a row, and their inputs on the device, in the same order."""

    samples: Sequence[PreparedSample]
    inputs: Sequence[SampleInputs]


def collate(samples: Sequence[PreparedSample], device: torch.device, dtype: torch.dtype) -> Bin:
    """A bin on ``device``; features and pixels become ``dtype``, ids and labels stay on the CPU, where they are read.

    An empty list gives an empty bin, which trains nothing.
    """
    inputs = []
    for sample in samples:
        media = sample.media
        if media is not None:
            media = with_features(media, lambda features: features.to(device, dtype, non_blocking=True))
        inputs.append(SampleInputs(sample.input_ids[None], sample.labels[None], media))
    return Bin(samples, inputs)


def filler() -> SampleInputs:
    """A token without a target: what a rank computes when others have more bins than it has."""
    return SampleInputs(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORE_INDEX), None)
