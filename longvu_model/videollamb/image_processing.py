"""Pictures to model inputs of VideoLLaMB. What the pixels are is in :mod:`longvu_model.videollamb.tower_pixels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from longvu_model.image_processing import PictureProcessor
from longvu_model.media import Medium
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.videollamb.tower_pixels import flipped, image_pixels, video_pixels

MODEL_INPUT_NAMES = ["pixel_values", "frame_counts", "is_video"]
# Frames that are resized at a time: as floats they take four times the bytes of a decoded video.
_FRAMES_AT_A_TIME = 8


class TowerPixelsKwargs(TypedDict, total=False):
    """Fields of both processors that fix the towers' pixels."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def pixel_inputs(
    media: Sequence[Medium], size: int, mean: Sequence[float], std: Sequence[float], *, random_flip: bool = False
) -> dict[str, Tensor]:
    """Model inputs of media in slot order.

    Args:
        random_flip: mirror each video, or not, as the release does.

    Returns:
        ``pixel_values`` float32 (F, 3, s, s), ``frame_counts`` int64 (V,), ``is_video`` bool (V,).
    """
    pixels = []
    for medium in media:
        if medium.is_video:
            parts = range(0, len(medium.frames), _FRAMES_AT_A_TIME)
            frames = [_tensor(medium.frames[start : start + _FRAMES_AT_A_TIME]) for start in parts]
            clip = torch.cat([video_pixels(part, size, mean, std) for part in frames])
            pixels.append(flipped(clip) if random_flip else clip)
        else:
            pixels.append(image_pixels(_tensor(medium.frames)[0], size, mean, std)[None])
    return {
        "pixel_values": torch.cat(pixels),
        "frame_counts": torch.tensor([len(one) for one in pixels]),
        "is_video": torch.tensor([medium.is_video for medium in media]),
    }


def _tensor(frames: Any) -> Tensor:
    """Frames or pictures as uint8 (T, H, W, 3)."""
    array = frames if isinstance(frames, np.ndarray) else np.stack([np.asarray(one.convert("RGB")) for one in frames])
    return torch.from_numpy(np.ascontiguousarray(array))


class VideoLLaMBImageProcessor(PictureProcessor):
    """Pictures to model inputs; saved as ``preprocessor_config.json``.

    Args:
        size: input side of the towers in pixels.
        mean: per RGB channel, in [0, 1].
        std: per RGB channel.
        **kwargs: bookkeeping of the library.
    """

    valid_kwargs = TowerPixelsKwargs  # type: ignore[assignment]
    model_input_names = MODEL_INPUT_NAMES

    def __init__(
        self, size: int = 224, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.mean, self.std = size, list(mean), list(std)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        return pixel_inputs(media, self.size, self.mean, self.std)
