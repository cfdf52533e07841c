"""A video's features, window by window: memory grows with what is new in it and not with its length.

Of a window only what the model can still use is held, so the result is that of all frames at once: while all frames
fit the model they are held, and as soon as they do not, near-duplicates are let go.

Shapes: F frames, K kept ones, P tokens, D channels, s input side of a tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longvu_model.config import LongVUConfig
from longvu_model.frame_selection import WINDOW_FRAMES, keep_frames, window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.regimes import media_shape, needs_reduction
from longvu_model.sight import Media
from longvu_model.tower_pixels import TowerPixels
from longvu_model.towers import Towers


@dataclass(frozen=True)
class KeptFrames:
    """What is left of a video.

    Attributes:
        dino_KPD, siglip_KPD: features of the kept frames.
        places: of each kept frame among the sampled ones.
        num_sampled: frames before reduction.
        size: (height, width) in pixels.
    """

    dino_KPD: Tensor
    siglip_KPD: Tensor
    places: list[int]
    num_sampled: int
    size: tuple[int, int]

    def media(self, *, is_video: bool = True) -> Media:
        """As the model takes it, with temporal reduction done."""
        return Media(
            frame_counts=torch.tensor([len(self.places)]),
            image_sizes=torch.tensor([self.size]),
            is_video=torch.tensor([is_video]),
            siglip_features=self.siglip_KPD,
            dino_features=self.dino_KPD,
            frame_times=torch.tensor(self.places),
            preselected=True,
        )


def too_many_frames(
    config: LongVUConfig, num_frames: int, size: tuple[int, int], text_length: int, num_media: int = 1
) -> bool:
    """Whether so many frames of a video do not fit beside the text: near-duplicates are then left out.

    Args:
        size: (height, width) in pixels.
        text_length: for frame budgets, see :class:`longvu_model.assembly.TextLayout`.
        num_media: media of the row, which share its budget.
    """
    row_V, is_video_V = torch.zeros(num_media, dtype=torch.int64), torch.ones(num_media, dtype=torch.bool)
    counts_V, sizes_V2 = torch.tensor([num_frames] * num_media), torch.tensor([size] * num_media)
    shape = media_shape(config, row_V, is_video_V, counts_V, sizes_V2)
    return bool(needs_reduction(config, shape, torch.tensor([text_length]))[0])


class FrameWatcher:
    """Takes the windows of one video in order.

    Args:
        towers: of the model; features are made where they are.
        pixels: SigLIP's and DINOv2's preprocessing.
        threshold: frames with a window similarity below it are kept.
        too_many: whether so many frames of (height, width) do not fit, see :func:`too_many_frames`.
        dtype: of the features.
    """

    def __init__(
        self,
        towers: Towers,
        pixels: tuple[TowerPixels, TowerPixels],
        threshold: float,
        too_many: Callable[[int, tuple[int, int]], bool],
        dtype: torch.dtype,
    ) -> None:
        self._towers, (self._siglip, self._dino) = towers, pixels
        self._threshold, self._too_many, self._dtype = threshold, too_many, dtype
        self._device = towers.dino.patch.weight.device
        self._similarity_F = torch.empty(0)
        # frame -> DINOv2 features (P, D), SigLIP pixels (3, s, s)
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        self._size = (0, 0)

    @property
    def num_sampled(self) -> int:
        """Frames taken so far."""
        return len(self._similarity_F)

    @property
    def similarity_F(self) -> Tensor:
        """Window similarity of the frames taken so far, float32 on the CPU."""
        return self._similarity_F

    @torch.no_grad()
    def add(self, frames_FHWC: np.ndarray) -> None:
        """Take the next window: ``WINDOW_FRAMES`` frames, fewer at the end."""
        first, self._size = self.num_sampled, frames_FHWC.shape[1:3]
        features_FPD = self._towers.dino(_prepare(frames_FHWC, self._dino).to(self._device)).to(self._dtype)
        self._similarity_F = torch.cat([self._similarity_F, window_similarity(features_FPD).cpu()])
        useful_F = self._similarity_F < self._threshold
        if not self._too_many(self.num_sampled, self._size):
            useful_F[:] = True
        self._held = {frame: value for frame, value in self._held.items() if useful_F[frame]}
        places = useful_F[first:].nonzero()[:, 0].tolist()
        for place, pixels in zip(places, _prepare(frames_FHWC[places], self._siglip), strict=True):
            # Clones: a slice would keep the whole window alive.
            self._held[first + place] = features_FPD[place].clone(), pixels.to(self._dtype, copy=True)

    @torch.no_grad()
    def finish(self) -> KeptFrames:
        """What the model sees.

        Raises:
            ValueError: no frames were given.
        """
        if not self.num_sampled:
            raise ValueError("a video without frames")
        keep_F = torch.ones(self.num_sampled, dtype=torch.bool)
        if self._too_many(self.num_sampled, self._size):
            keep_F = keep_frames(self._similarity_F, self._threshold)
        kept = keep_F.nonzero()[:, 0].tolist()
        dino_KPD = torch.stack([self._held[frame][0] for frame in kept])
        siglip_KPD = self._towers.siglip(torch.stack([self._held[frame][1] for frame in kept]).to(self._device))
        return KeptFrames(dino_KPD, siglip_KPD, kept, self.num_sampled, self._size)


def windows(blocks: Iterable[np.ndarray], size: int = WINDOW_FRAMES) -> Iterator[np.ndarray]:
    """Frames (F, H, W, C) by windows, from blocks of any length; decoders give smaller ones where frames are large."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.extend(block)
        while len(held) >= size:
            yield np.stack(held[:size])
            held = held[size:]
    if held:
        yield np.stack(held)


def _prepare(frames_FHWC: np.ndarray, tower: TowerPixels) -> Tensor:
    return preprocess_frames(frames_FHWC, tower.size, tower.mean, tower.std)
