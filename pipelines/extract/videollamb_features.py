"""VideoLLaMB's feature: what LanguageBind's towers give, pooled to the bridge's grid, the class token first.

What can be kept, and how the numbers stay those of the direct path:

- Frames of videos go through the video tower in windows of eight consecutive *sampled* frames, counted from the start
  of the video, and nothing crosses a window. Units begin at multiples of 16 frames, so a video that is split has the
  same windows as a whole one; the last window is filled with copies of the last frame, as the model does it. A frame's
  feature therefore belongs to the frames that were sampled beside it: they are used all together or in whole windows,
  never a choice of them. Pictures go through the image tower, and frames too where the model has no video tower.
- Averaging the patches has no weights and is the first thing the model does with a frame, so it is done before storing
  (145 tokens of 257, published) and loses nothing; pooling again changes nothing.
- The class token stays, because scenes are found by it. Scenes, memory and bridge come after the whole video is known
  and cost little; the bridge learns. They are not stored.
- Pixels are interpolated in floating point, which 8 bits would round, so they travel as floats.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.towers import Tower
from longvu_model.videollamb.compression import pool
from longvu_model.videollamb.config import VideoLLaMBConfig
from longvu_model.videollamb.tower_pixels import image_pixels, video_pixels
from longvu_model.videollamb.towers import ImageTower, VideoTower, num_blocks
from pipelines.extract.families import VIT_FIELDS, Family, Feature, Kind


@dataclass(frozen=True)
class ClipPixels:
    """Pixels of frames, or of pictures, as :mod:`longvu_model.videollamb.tower_pixels` makes them."""

    size: int
    kind: Kind
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def normalized(self, frames_THWC: np.ndarray) -> np.ndarray:
        """One by one: as floats, frames of some size take four times the bytes."""
        pixels = np.empty((len(frames_THWC), 3, self.size, self.size), np.float32)
        for frame_HWC, out in zip(map(torch.from_numpy, frames_THWC), pixels, strict=True):
            if self.kind == "image":
                out[:] = image_pixels(frame_HWC, self.size, self.mean, self.std).numpy()
            else:
                out[:] = video_pixels(frame_HWC[None], self.size, self.mean, self.std)[0].numpy()
        return pixels


class _PooledImageTower(ImageTower):
    def __init__(self, config: VideoLLaMBConfig, shape: Any):
        super().__init__(shape, num_blocks(shape, config.feature_layer))
        self.pool_grid = config.pool_grid

    def finish(self, x_FND: Tensor) -> Tensor:
        return pool(x_FND, self.pool_grid)


class _PooledVideoTower(VideoTower):
    def __init__(self, config: VideoLLaMBConfig):
        shape = config.video_config
        super().__init__(shape, num_blocks(shape, config.feature_layer), config.temporal_window)
        self.pool_grid = config.pool_grid

    def finish(self, x_FND: Tensor) -> Tensor:
        return pool(x_FND, self.pool_grid)


def _by_video_tower(config: VideoLLaMBConfig, kind: Kind) -> bool:
    return kind == "video" and config.video_config is not None


def _tower(config: VideoLLaMBConfig, kind: Kind) -> Tower:
    if _by_video_tower(config, kind):
        return _PooledVideoTower(config)
    return _PooledImageTower(config, config.image_config)


def _pixels(config: VideoLLaMBConfig, kind: Kind) -> ClipPixels:
    return ClipPixels(config.image_config.image_size, kind)


def _facts(config: VideoLLaMBConfig) -> dict[str, Any]:
    shapes = {"image": config.image_config, "video": config.video_config}
    towers = {
        name: {field: getattr(shape, field) for field in VIT_FIELDS}
        for name, shape in shapes.items()
        if shape is not None
    }
    return {
        **towers,
        "temporal_window": config.temporal_window,
        "feature_layer": config.feature_layer,
        "pool_grid": config.pool_grid,
    }


FAMILY = Family(
    name="VideoLLaMB",
    config_class=VideoLLaMBConfig,
    official="longvu_model.videollamb.official",
    features=(
        Feature(
            name="languagebind",
            prefix="model.towers.",
            shape=lambda config: (config.frame_tokens + 1, config.width),
            facts=_facts,
            pixels=_pixels,
            tower=_tower,
            part=lambda config, kind: "video." if _by_video_tower(config, kind) else "image.",
        ),
    ),
)
