"""A video or image as LongVU has watched it, and the part of it that a question is shown.

Shapes: F sampled frames, K frames held, P tokens of a tower, D channels, V media.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longvu_model.sight import Media
from pipelines.video_models.base import WatchedMedia


@dataclass(frozen=True, kw_only=True)
class LongVUMedia(WatchedMedia):
    """Tower features of the frames that some question may show.

    Attributes:
        siglip_KPD, dino_KPD: features.
        places_K: int64, of each held frame among the sampled ones.
        similarity_F: float32, window similarity of every sampled frame; empty for an image.
        size: (height, width) in pixels.
    """

    siglip_KPD: Tensor
    dino_KPD: Tensor
    places_K: Tensor
    similarity_F: Tensor
    size: tuple[int, int]


def shown_media(media: Sequence[LongVUMedia], shown: Sequence[Tensor]) -> Media:
    """Some held frames of each, back to back, as the model takes them; see :meth:`LongVU.shown`."""

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        chosen = [
            tensor if len(frames) == len(tensor) else tensor[frames.to(tensor.device)]
            for tensor, frames in zip(tensors, shown, strict=True)
        ]
        return chosen[0] if len(chosen) == 1 else torch.cat([tensor.to(chosen[0].device) for tensor in chosen])

    counts_V, sizes_V2, is_video_V = shapes(media, shown)
    return Media(
        frame_counts=counts_V,
        image_sizes=sizes_V2,
        is_video=is_video_V,
        siglip_features=joined([medium.siglip_KPD for medium in media]),
        dino_features=joined([medium.dino_KPD for medium in media]),
        frame_times=joined([medium.places_K.cpu() for medium in media]),
        preselected=True,
    )


def shapes(media: Sequence[LongVUMedia], shown: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames shown (V,), (height, width) in pixels (V, 2) and whether it is a video (V,) of each medium."""
    return (
        torch.tensor([len(frames) for frames in shown]),
        torch.tensor([medium.size for medium in media]),
        torch.tensor([medium.kind == "video" for medium in media]),
    )


def times(medium: LongVUMedia, shown: Tensor) -> list[float]:
    """Of the shown frames, in seconds; none where the frames came without times."""
    return [medium.kept_times_s[frame] for frame in shown.tolist()] if medium.kept_times_s else []
