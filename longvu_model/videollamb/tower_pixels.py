"""What the towers are fed: resizing, cropping and normalisation of frames and of pictures (SEMANTICS section 1).

Frames of videos are normalised before they are resized, without antialiasing; pictures are padded to squares in the
mean colour and resized with it. Both in floating point.

Shapes: T frames, H x W pixels, s input side of a tower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD


def video_pixels(
    frames_THWC: Tensor, size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """Frames uint8 (T, H, W, 3) -> float32 (T, 3, s, s): normalised, short side resized, centre cropped."""
    pixels_TCHW = _normalized(frames_THWC.permute(0, 3, 1, 2) / 255, mean, std)
    height, width = _short_side_to(size, *pixels_TCHW.shape[2:])
    resized = functional.interpolate(pixels_TCHW, (height, width), mode="bilinear", align_corners=False)
    return _centre(resized, size)


def image_pixels(
    picture_HWC: Tensor, size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """A picture, uint8 (H, W, 3) -> float32 (3, s, s): padded to a square, resized, normalised."""
    square_1CHW = padded_square(picture_HWC, mean).permute(2, 0, 1)[None] / 255
    resized = functional.interpolate(square_1CHW, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return _normalized(resized, mean, std)[0]


def padded_square(picture_HWC: Tensor, mean: Sequence[float] = CLIP_MEAN) -> Tensor:
    """Padded with the mean colour, the smaller half at the top or left: uint8 (S, S, 3)."""
    height, width = picture_HWC.shape[:2]
    side = max(height, width)
    square = torch.tensor([int(255 * value) for value in mean], dtype=torch.uint8).repeat(side, side, 1)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture_HWC
    return square


def flipped(pixels_TCHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The whole clip mirrored, or not, by the toss of a coin: the release's, also when answering."""
    return pixels_TCHW.flip(-1) if torch.rand(1, generator=generator) < 0.5 else pixels_TCHW


def _normalized(pixels_CHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean_C11, std_C11 = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    return (pixels_CHW - mean_C11) / std_C11


def _short_side_to(size: int, height: int, width: int) -> tuple[int, int]:
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)


def _centre(pixels_TCHW: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in pixels_TCHW.shape[2:])
    return pixels_TCHW[..., top : top + size, left : left + size]
