"""The needle: a saturated shape, of the same area whatever the shape, so that only its form tells it apart."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": (226, 38, 44),
    "green": (20, 198, 54),
    "blue": (32, 58, 254),
    "yellow": (246, 222, 36),
    "magenta": (232, 44, 208),
    "cyan": (0, 222, 240),
}
MORE_COLOURS = {"orange": (255, 128, 0), "violet": (132, 30, 240)}
"""For corpora that ask for more than the usual six."""

SHAPES = ("circle", "square", "triangle", "star")
REACH = 0.9
"""No point of a shape of area 1 is farther than this from its centre."""

_OVERSAMPLING = 4

Points = list[tuple[float, float]]


def needle_sprite(colour: str, shape: str, area_px: float) -> Image.Image:
    """RGBA picture of a needle that covers ``area_px`` pixels, centred, with a soft dark rim outside that area."""
    unit = area_px**0.5
    side = round(2.2 * REACH * unit)
    big = Image.new("L", (side * _OVERSAMPLING,) * 2)
    middle = big.width / 2
    points = [(middle + x * unit * _OVERSAMPLING, middle + y * unit * _OVERSAMPLING) for x, y in _OUTLINES[shape]()]
    ImageDraw.Draw(big).polygon(points, fill=255)
    mask = big.resize((side, side), Image.Resampling.BOX)
    shade = mask.filter(ImageFilter.GaussianBlur(unit / 24)).point(lambda value: value * 0.55)
    sprite = Image.merge("RGBA", [*Image.new("RGB", mask.size).split(), shade])
    fill = Image.merge("RGBA", [*Image.new("RGB", mask.size, (COLOURS | MORE_COLOURS)[colour]).split(), mask])
    return Image.alpha_composite(sprite, fill)


def _polygon(corners: int, start: float, radii: tuple[float, ...] = (1.0,)) -> Points:
    """Unit-area polygon around the origin; ``radii`` alternate from corner to corner."""
    angles = [start + 2 * pi * k / corners for k in range(corners)]
    points = [(radii[k % len(radii)] * cos(a), radii[k % len(radii)] * sin(a)) for k, a in enumerate(angles)]
    area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True))) / 2
    return [(x / area**0.5, y / area**0.5) for x, y in points]


_OUTLINES: dict[str, Callable[[], Points]] = {
    "circle": lambda: _polygon(72, 0.0),
    "square": lambda: _polygon(4, pi / 4),
    "triangle": lambda: _polygon(3, -pi / 2),
    "star": lambda: _polygon(10, -pi / 2, (1.0, 0.5)),
}
