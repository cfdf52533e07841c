"""What the towers are fed, frame by frame, in 8-bit pixels: padding, resizing, normalisation (SEMANTICS section 2.2).

Needs neither torch nor transformers, so that processes that only decode stay light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TowerPixels:
    """What a tower is fed: input side in pixels, and mean and standard deviation per RGB channel in [0, 1]."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"tower input size {self.size}: must be at least 1 pixel")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ValueError(f"mean {self.mean}, std {self.std}: give three numbers each, std above 0")

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour that frames are padded with."""
        red, green, blue = (int(255 * value) for value in self.mean)
        return red, green, blue

    @property
    def normalized(self) -> np.ndarray:
        """Normalised value of each 8-bit value, float32 (3, 256): 1/255 in double precision, the rest in single."""
        unit = (np.arange(256) * (1 / 255)).astype(np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (unit - mean[:, None]) / std[:, None]


def padded_square(picture: Image.Image, size: int, fill: tuple[int, ...]) -> Image.Image:
    """``picture`` padded to a square, the smaller half at the top or left, and resized to ``size`` x ``size``.

    Pillow resizes rows first and columns second, rounding to 8 bits between. Rows of padding stay what they are, so a
    wide picture is resized in width before it is padded: the same bytes for about half the time.
    """
    width, height = picture.size
    long = max(width, height)
    if width > height:
        picture = picture.resize((size, height), Image.Resampling.BICUBIC)
    if width != height:
        canvas = Image.new("RGB", (picture.width if width > height else long, long), fill)
        canvas.paste(picture, ((long - width) // 2, (long - height) // 2))
        picture = canvas
    return picture.resize((size, size), Image.Resampling.BICUBIC)
