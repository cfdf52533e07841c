"""What a sample's media will cost and which of their frames are seen: the model's own rules on counts alone.

Shapes: B samples, V media of all samples back to back, T sampled frames of one video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longvu_model.config import LongVUConfig
from longvu_model.frame_selection import MAX_KEPT_FRAMES, keep_frames
from longvu_model.regimes import choose_regime, media_shape, needs_reduction
from longvu_model.watching import KeptFrames
from pipelines.train.samples import MediaRef, Unusable

if TYPE_CHECKING:
    from pipelines.store import FeatureStore


@dataclass(frozen=True)
class MediumFacts:
    """What is known of a medium before it is loaded.

    Attributes:
        is_video: as the sample shows it.
        sampled: frames sampled from it.
        whole: frames that can be seen if all fit: the stored ones, or all.
        kept: frames that are seen if not all fit; None if only their encoding can tell.
        missing: of these, without features in the store.
        size: (height, width) in pixels.
    """

    is_video: bool
    sampled: int
    whole: int
    kept: int | None
    missing: int
    size: tuple[int, int]


@dataclass(frozen=True)
class VisualCost:
    """Of each medium; int64 or bool tensors (V,)."""

    tokens_V: Tensor
    """Visual tokens at most: fewer only where redundant tokens are dropped, or frames are still to be chosen."""
    frames_V: Tensor
    """Frames seen, at most."""
    reduced_V: Tensor
    """Whether near-duplicates are left out."""
    fits_V: Tensor
    """Whether there is room for one frame at least."""


def visual_cost(config: LongVUConfig, row_V: Tensor, facts: list[MediumFacts], num_text_B: Tensor) -> VisualCost:
    """Tokens and frames of media beside text.

    Args:
        row_V: sample of each medium.
        num_text_B: text tokens of each sample.
    """
    sampled_V = torch.tensor([fact.sampled for fact in facts], dtype=torch.int64)
    unknown_V = torch.tensor([fact.kept is None for fact in facts], dtype=torch.bool)
    kept_V = torch.tensor([_most_kept(fact) for fact in facts], dtype=torch.int64)
    whole_V = torch.tensor([fact.whole for fact in facts], dtype=torch.int64)
    is_video_V = torch.tensor([fact.is_video for fact in facts], dtype=torch.bool)
    sizes_V2 = torch.tensor([fact.size for fact in facts], dtype=torch.int64).reshape(-1, 2)

    shape = media_shape(config, row_V, is_video_V, sampled_V, sizes_V2)
    reduced_V = needs_reduction(config, shape, num_text_B)
    seen_V = torch.where(reduced_V, kept_V, whole_V)
    regime = choose_regime(config, shape, seen_V, num_text_B, num_text_B)
    full_V, low_V = shape.full_tokens_V, shape.low_tokens_V
    tokens_V = seen_V * torch.where(regime.base_full_V, full_V, low_V) + regime.num_upgraded_V * (full_V - low_V)
    tokens_V = torch.where(regime.drop_V, torch.minimum(tokens_V, regime.budget_V), tokens_V)
    most_V = torch.minimum(seen_V * full_V, regime.budget_V)
    tokens_V = torch.where(reduced_V & unknown_V, most_V, tokens_V)
    return VisualCost(tokens_V, seen_V, reduced_V, regime.budget_V >= torch.minimum(full_V, low_V))


def stored_facts(store: FeatureStore, threshold: float) -> dict[str, MediumFacts]:
    """Facts of every video of a store that did not fail, by video id."""
    chosen = store.select(threshold).select(["video_id", "num_sampled", "num_kept", "num_missing"])
    counts = {row["video_id"]: row for row in chosen.to_pylist()}
    sizes = store.videos(["video_id", "height", "width", "num_stored"])
    facts = {}
    for row in sizes.to_pylist():
        count = counts.get(row["video_id"])
        if count is not None:
            facts[row["video_id"]] = MediumFacts(
                is_video=True,
                sampled=count["num_sampled"],
                whole=row["num_stored"],
                kept=count["num_kept"],
                missing=count["num_missing"],
                size=(row["height"], row["width"]),
            )
    return facts


def clip_facts(video: dict[str, Any], medium: MediaRef, threshold: float) -> MediumFacts:
    """Facts of a part of a stored video, from its row of the store."""
    inside_T, stored_T = clip_frames(video, medium), np.asarray(video["stored"], bool)
    kept_T = _kept_in(video, inside_T, threshold)
    return MediumFacts(
        is_video=True,
        sampled=int(inside_T.sum()),
        whole=int((inside_T & stored_T).sum()),
        kept=int(kept_T.sum()),
        missing=int((kept_T & ~stored_T).sum()),
        size=(video["height"], video["width"]),
    )


def clip_frames(video: dict[str, Any], medium: MediaRef) -> NDArray[np.bool_]:
    """Which sampled frames (T,) of a stored video lie in the sample's part of it, at the average rate as when decoding.

    Raises:
        Unusable: none does.
    """
    assert medium.start_s is not None and medium.end_s is not None
    index_T = np.asarray(video["frame_index"])
    inside_T = (index_T >= round(medium.start_s * video["fps"])) & (index_T < round(medium.end_s * video["fps"]))
    if not inside_T.any():
        raise Unusable(
            "bad clip",
            f"{medium.path}: no sampled frame from {medium.start_s:g} to {medium.end_s:g} s; the video has "
            f"{video['duration_s'] or 0:.1f} s",
        )
    return inside_T


def load_stored(store: FeatureStore, medium: MediaRef, threshold: float) -> KeptFrames:
    """The features of the frames that a sample sees, from the store.

    Where all frames fit but the store left out some near-duplicates, those that are stored are seen.

    Args:
        threshold: the model's.

    Raises:
        Unusable: no frame lies in the sample's part of the video.
        StoreError: the store lacks the video, or frames that the threshold asks for.
    """
    assert medium.video_id is not None
    is_clip = medium.start_s is not None
    if medium.reduced and not is_clip:
        found = store.load(medium.video_id, threshold)
    else:
        found = store.load(medium.video_id, None, cap=None)
    assert found.siglip is not None, "checked when the manifest was made"
    video = found.video
    inside_T = clip_frames(video, medium) if is_clip else np.ones(len(found.kept), bool)
    seen_T = inside_T & found.kept
    if is_clip and medium.reduced:
        seen_T &= _kept_in(video, inside_T, threshold)
    dino, siglip = found.dinov2, found.siglip
    if is_clip:
        chosen_K = torch.from_numpy(seen_T[found.kept])
        dino, siglip = dino[chosen_K], siglip[chosen_K]
    places = np.flatnonzero(seen_T[inside_T]).tolist()
    return KeptFrames(dino, siglip, places, int(inside_T.sum()), (video["height"], video["width"]))


def _kept_in(video: dict[str, Any], inside_T: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    kept_T = np.zeros_like(inside_T)
    similarity = torch.tensor(np.asarray(video["similarity"], np.float32)[inside_T])
    kept_T[inside_T] = keep_frames(similarity, threshold).numpy()
    return kept_T


def _most_kept(fact: MediumFacts) -> int:
    return min(fact.sampled, MAX_KEPT_FRAMES) if fact.kept is None else fact.kept
