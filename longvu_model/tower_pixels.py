"""What towers are fed, frame by frame, in 8-bit pixels: padding or cropping, resizing, normalisation.

Needs neither torch nor transformers, so that processes that only decode stay light.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Pillow is imported where a picture is made: whoever only names a tower's mean needs none.

SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerPixels:
    """What a tower is fed: input side in pixels, and mean and standard deviation per RGB channel in [0, 1].

    A picture is padded to a square, or with ``crop`` its central square is taken.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"tower input size {self.size}: must be at least 1 pixel")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ValueError(f"mean {self.mean}, std {self.std}: give three numbers each, std above 0")

    @property
    def facts(self) -> dict[str, Any]:
        """The fields as a record to hash; those that say what always was are left out, so that old digests hold."""
        facts = asdict(self)
        return facts if self.crop else {name: value for name, value in facts.items() if name != "crop"}

    @property
    def fill(self) -> tuple[int, int, int] | None:
        """The colour that frames are padded with; None where they are cropped."""
        if self.crop:
            return None
        red, green, blue = (int(255 * value) for value in self.mean)
        return red, green, blue

    @property
    def normalized(self) -> np.ndarray:
        """Normalised value of each 8-bit value, float32 (3, 256): 1/255 in double precision, the rest in single."""
        unit = (np.arange(256) * (1 / 255)).astype(np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (unit - mean[:, None]) / std[:, None]


def square(picture: Image.Image, size: int, fill: tuple[int, ...] | None) -> Image.Image:
    """``picture`` as ``size`` x ``size``: padded with a colour, or without one its central square."""
    return cropped_square(picture, size) if fill is None else padded_square(picture, size, fill)


def cropped_square(picture: Image.Image, size: int) -> Image.Image:
    """``picture`` with its short side resized to ``size``, and of that the centre: CLIP's preprocessing."""
    from PIL import Image

    short = min(picture.size)
    # The long side is cut to an integer, as the library does it.
    width, height = (side * size // short for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def padded_square(picture: Image.Image, size: int, fill: tuple[int, ...]) -> Image.Image:
    """``picture`` padded to a square, the smaller half at the top or left, and resized to ``size`` x ``size``.

    Pillow resizes rows first and columns second, rounding to 8 bits between. Rows of padding stay what they are, so a
    wide picture is resized in width before it is padded: the same bytes for about half the time.
    """
    from PIL import Image

    width, height = picture.size
    long = max(width, height)
    if width > height:
        picture = picture.resize((size, height), Image.Resampling.BICUBIC)
    if width != height:
        canvas = Image.new("RGB", (picture.width if width > height else long, long), fill)
        canvas.paste(picture, ((long - width) // 2, (long - height) // 2))
        picture = canvas
    return picture.resize((size, size), Image.Resampling.BICUBIC)
