"""A video's features, window by window: of each frame only what the bridge can use is held.

Shapes: F frames, P pooled tokens of a frame, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longvu_model.videollamb.modeling import VideoLLaMBModel
from longvu_model.videollamb.sight import Media
from longvu_model.videollamb.tower_pixels import video_pixels


class FrameWatcher:
    """Encodes the frames of one video in temporal windows, which do not see one another.

    Args:
        model: whose towers are used, where they are.
        size, mean, std: of the pixels, see :func:`longvu_model.videollamb.tower_pixels.video_pixels`.
    """

    def __init__(self, model: VideoLLaMBModel, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._model, self._pixels = model, (size, mean, std)

    def pixels(self, frames_FHWC: np.ndarray) -> Tensor:
        """What the towers are fed (F, 3, s, s) of frames uint8 (F, H, W, 3)."""
        return video_pixels(torch.from_numpy(np.ascontiguousarray(frames_FHWC)), *self._pixels)

    @torch.no_grad()
    def encode(self, frames_FHWC: np.ndarray) -> Tensor:
        """Pooled features (F, 1 + P, D), class token first, of the next window; the last may be a part of one."""
        pixels = self.pixels(frames_FHWC)
        return self._model.features(
            Media(
                frame_counts=torch.tensor([len(pixels)]),
                is_video=torch.tensor([True]),
                pixel_values=pixels.to(self._model.bridge.first_memory.device),
            )
        )
