"""What VideoLLaMB and LLaMA-VID share in training: media are one tower's features of all sampled frames.

Shapes: F frames, T tower tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from longvu_model.labels import Turn
from longvu_model.prompts import escape_markers
from pipelines.train.families.base import Family
from pipelines.train.samples import MediaRef, Sample
from pipelines.train.visibility import MediumFacts, clip_frames

if TYPE_CHECKING:
    from pipelines.store import FeatureStore


class FeatureFamily(Family[Tensor]):
    """See :class:`Family`; what is kept of a medium is (F, T, D)."""

    title: ClassVar[str]
    """The family's name in messages."""

    @property
    def feature(self) -> str:
        """The feature in a store."""
        return self.feature_names[0]

    def check(self, store: FeatureStore | None) -> None:
        """See :meth:`Family.check`."""
        if store is not None:
            store.require(self.feature, self.title)

    def stored_facts(self, store: FeatureStore) -> dict[str, MediumFacts]:
        from pipelines.store.schema import FAILED

        columns = ["video_id", "status", "num_sampled", "num_stored", "height", "width"]
        rows = store.videos(columns).select(columns).to_pylist()
        return {
            row["video_id"]: _facts(row["num_sampled"], row["num_stored"], row)
            for row in rows
            if row["status"] != FAILED
        }

    def clip_facts(self, video: dict[str, Any], medium: MediaRef) -> MediumFacts:
        inside_T = clip_frames(video, medium)
        return _facts(int(inside_T.sum()), int((inside_T & np.asarray(video["stored"], bool)).sum()), video)

    def recall(self, store: FeatureStore, medium: MediaRef) -> Tensor:
        """See :meth:`Family.recall`; every stored frame, or those of the sample's part."""
        assert medium.video_id is not None
        found = store.load(medium.video_id, None, cap=None)
        features_FTD = found.features[self.feature]
        if medium.start_s is None:
            return features_FTD
        inside_T = clip_frames(found.video, medium)
        return features_FTD[torch.from_numpy(inside_T[found.kept])]


class FeatureWatcher:
    """Takes frames window by window and keeps their features.

    Args:
        encode: uint8 (F, H, W, 3) -> features (F, T, D).
    """

    def __init__(self, encode: Callable[[np.ndarray], Tensor]) -> None:
        self._encode, self._parts = encode, list[Tensor]()

    @torch.no_grad()
    def add(self, frames_FHWC: np.ndarray) -> None:
        """Take the next window."""
        self._parts.append(self._encode(frames_FHWC))

    def finish(self) -> Tensor:
        """All features.

        Raises:
            ValueError: no frames were given.
        """
        if not self._parts:
            raise ValueError("a video without frames")
        return torch.cat(self._parts)


def turns_with(sample: Sample, marker: Callable[[str], str]) -> list[Turn]:
    """A sample's turns with markers as the family writes them; in plain text they stand for themselves.

    Args:
        marker: a user's text -> the same with the family's marker.
    """
    if not sample.media:
        return [Turn(turn.role, escape_markers(turn.text)) for turn in sample.turns]
    return [Turn(turn.role, marker(turn.text)) if turn.role == "user" else turn for turn in sample.turns]


def vit_flops(tokens: int, patch: int, width: int, inner: int, layers: int) -> float:
    """Operations of a vision transformer on one frame."""
    embed = 2.0 * tokens * 3 * patch**2 * width
    return embed + layers * (2.0 * tokens * width * (4 * width + 2 * inner) + 4.0 * tokens**2 * width)


def _facts(sampled: int, stored: int, video: Mapping[str, Any]) -> MediumFacts:
    return MediumFacts(True, sampled, stored, stored, 0, (video["height"], video["width"]))
