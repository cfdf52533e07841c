"""A video seen for one question, block by block: of each frame only its tokens are held, not the tower's features.

The tokens are those of all frames at once, since no frame's depend on another's; memory grows by two tokens a frame.

Shapes: F frames, L visual tokens, C model width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from longvu_model.image_processing import preprocess_frames
from longvu_model.llamavid.modeling import LlamaVidModel
from longvu_model.llamavid.sight import Media, Views
from longvu_model.tower_pixels import TowerPixels


class FrameWatcher:
    """Takes the frames of one video in order.

    Args:
        model: in evaluation mode.
        pixels: what the tower is fed.
        guide_ids, guide_mask: word pieces (1, n) of the question.
    """

    def __init__(self, model: LlamaVidModel, pixels: TowerPixels, guide_ids: Tensor, guide_mask: Tensor):
        self._model, self._pixels = model, pixels
        self._views = Views(guide_ids, guide_mask, torch.tensor([0]))
        self._tokens: list[Tensor] = []
        self.num_frames = 0

    @torch.no_grad()
    def add(self, frames_FHWC: np.ndarray) -> None:
        """Take the next frames, uint8."""
        tower = self._pixels
        pixels = preprocess_frames(frames_FHWC, tower.size, tower.mean, tower.std, crop=tower.crop)
        device = self._model.qformer.queries.device
        encoded = self._model.encode(Media(torch.tensor([len(pixels)]), pixel_values=pixels.to(device)))
        self._tokens.append(self._model.compress(encoded, self._views).embeds_LC)
        self.num_frames += len(pixels)

    def tokens(self) -> Tensor:
        """Visual tokens (L, C) of all frames so far.

        Raises:
            ValueError: no frames were given.
        """
        if not self._tokens:
            raise ValueError("a video without frames")
        return torch.cat(self._tokens)
