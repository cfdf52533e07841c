"""Scenes: painted places that a camera drifts over while small things move in front of them.

A place is painted once on a canvas a little larger than the frame (numpy, at leisure); a frame is a sub-pixel crop of
it (Pillow, half a millisecond). Palettes are muted, which leaves saturated colours to the needle.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

# Families of hue, each by day and at dusk; five colours from dark to light. The scenes of a video take one palette
# each, from different families.
PALETTES = (
    (
        ((46, 32, 29), (104, 76, 70), (158, 122, 114), (208, 170, 161), (248, 212, 204)),
        ((13, 9, 8), (31, 21, 19), (59, 41, 37), (118, 88, 81), (204, 166, 157)),
    ),
    (
        ((40, 36, 26), (92, 84, 64), (143, 131, 106), (192, 179, 151), (234, 221, 194)),
        ((11, 10, 7), (27, 24, 17), (51, 46, 34), (105, 96, 74), (188, 175, 148)),
    ),
    (
        ((30, 40, 29), (72, 93, 71), (116, 144, 115), (162, 193, 162), (205, 234, 204)),
        ((8, 11, 8), (20, 27, 19), (38, 52, 38), (82, 106, 82), (158, 189, 158)),
    ),
    (
        ((30, 39, 38), (73, 89, 87), (117, 139, 136), (164, 187, 184), (206, 229, 226)),
        ((8, 11, 10), (20, 26, 25), (39, 49, 48), (84, 102, 99), (160, 183, 180)),
    ),
    (
        ((33, 36, 42), (77, 85, 96), (123, 133, 148), (171, 181, 198), (213, 223, 239)),
        ((9, 10, 12), (22, 24, 28), (42, 47, 54), (89, 97, 110), (167, 177, 194)),
    ),
    (
        ((42, 32, 41), (97, 76, 93), (148, 121, 144), (198, 168, 193), (239, 211, 235)),
        ((12, 9, 11), (28, 21, 27), (54, 41, 52), (110, 87, 106), (194, 164, 189)),
    ),
    (
        ((37, 36, 34), (86, 84, 81), (134, 132, 128), (182, 180, 176), (224, 222, 218)),
        ((10, 10, 10), (25, 24, 23), (47, 46, 44), (98, 96, 93), (178, 176, 172)),
    ),
)
MARGIN = 1.35
_NOISE_PICTURES = 8
_NOISE_MEAN = 12

Palette = tuple[tuple[int, int, int], ...]
Painter = Callable[[np.random.Generator, np.ndarray, int, int], np.ndarray]


class Scene:
    """A place seen by a slowly drifting camera; ``frame(t)`` draws it at any time of its life.

    Args:
        painter: key of ``PAINTERS``.
        palette: five RGB colours, dark to light.
        rng: decides everything else.
        width, height: pixels of a frame.
        length_s: seconds over which the camera completes its move.
    """

    def __init__(
        self, painter: str, palette: Palette, rng: np.random.Generator, *, width: int, height: int, length_s: float
    ) -> None:
        self.size, self.length_s = (width, height), length_s
        canvas_HWC = PAINTERS[painter](
            rng, np.array(palette, np.float32), round(height * MARGIN), round(width * MARGIN)
        )
        self.canvas = Image.fromarray(np.clip(canvas_HWC, 0, 255).astype(np.uint8))
        zooms = rng.uniform(1.08, 1.2, 2)
        self.zooms = (float(zooms[0]), float(zooms[0] + np.clip(zooms[1] - zooms[0], -0.05, 0.05)))
        self.pan = rng.uniform(-0.025, 0.025, 2) * width
        self.light_phase = float(rng.uniform(0, 2 * pi))
        self.walkers = [_Walker(rng, palette, width, height) for _ in range(rng.integers(2, 5))]

    def frame(self, t_s: float) -> Image.Image:
        """RGB picture at ``t_s`` seconds after the scene began."""
        done = t_s / self.length_s
        zoom = self.zooms[0] + (self.zooms[1] - self.zooms[0]) * done
        width, height = self.size[0] * zoom, self.size[1] * zoom
        sway = 0.4 * sin(2 * pi * t_s / 7)
        left = (self.canvas.width - width) / 2 + self.pan[0] * (done - 0.5) + sway
        top = (self.canvas.height - height) / 2 + self.pan[1] * (done - 0.5)
        picture = self.canvas.resize(self.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        for walker in self.walkers:
            walker.draw(picture, t_s)
        light = 1 + 0.03 * sin(2 * pi * t_s / 19 + self.light_phase)
        return picture.point([min(255, round(level * light)) for level in range(256)] * 3)


class _Walker:
    """A small soft body in the scene's own colours, crossing the frame for ever."""

    def __init__(self, rng: np.random.Generator, palette: Palette, width: int, height: int) -> None:
        long, short = rng.uniform(0.05, 0.11) * height, rng.uniform(0.03, 0.06) * height
        margin = 4
        mask = Image.new("L", (round(long + 2 * margin), round(short + 2 * margin)))
        ImageDraw.Draw(mask).ellipse((margin, margin, margin + long, margin + short), fill=235)
        self.mask = mask.filter(ImageFilter.GaussianBlur(1))
        self.colour = palette[int(rng.integers(0, 3))]
        self.start = rng.uniform(0, 1, 2) * (width, height)
        self.speed = float(rng.choice([-1, 1]) * rng.uniform(0.01, 0.03) * width)
        self.bob = float(rng.uniform(0.01, 0.03) * height)

    def draw(self, picture: Image.Image, t_s: float) -> None:
        span = picture.width + self.mask.width
        x = (self.start[0] + self.speed * t_s) % span - self.mask.width
        y = self.start[1] + self.bob * sin(t_s + self.start[0])
        picture.paste(self.colour, (round(x), round(y)), self.mask)


class SensorNoise:
    """Mild camera noise from a stock of pictures; new random numbers in every frame would cost more than all else."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, sigma: float = 2.0) -> None:
        stock = rng.normal(_NOISE_MEAN, sigma, (_NOISE_PICTURES, height, width, 3)).round().clip(0, 2 * _NOISE_MEAN)
        self.stock = [Image.fromarray(picture) for picture in stock.astype(np.uint8)]
        self.order = rng.integers(0, _NOISE_PICTURES, 997)

    def apply(self, picture: Image.Image, frame: int) -> Image.Image:
        return ImageChops.add(picture, self.stock[self.order[frame % 997]], 1, -_NOISE_MEAN)


def ramp(palette: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Colours (..., 3) at positions ``level`` (0 to 1) along a palette."""
    stops = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(level, stops, palette[:, c]) for c in range(3)], axis=-1)


def fractal(rng: np.random.Generator, height: int, width: int, cells: int = 3, octaves: int = 5) -> np.ndarray:
    """Smooth noise in 0..1 (height, width): octaves of random grids, ``cells`` cells high at the coarsest."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = cells * 2**octave
        grid = rng.random((rows + 1, round(rows * width / height) + 1)).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    total -= total.min()
    return total / total.max()


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """y (height, 1) and x (1, width), both 0..1."""
    return np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)[None]


def hills(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    canvas = ramp(palette[3:], 1 - y + 0 * x)
    grain = fractal(rng, height, width, 8, 4)
    for layer in range(4):
        crest = 0.26 + 0.18 * layer + 0.22 * (fractal(rng, 32, width, 1, 4)[16] - 0.5)
        body = ramp(palette, 0.62 - 0.17 * layer + 0.12 * (grain - 0.5) - 0.08 * (y - crest))
        canvas = np.where((y > crest)[..., None], body, canvas)
    return canvas


def city(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    canvas = ramp(palette, 0.45 + 0.5 * y + 0 * x)
    for layer in range(3):
        left = -rng.integers(0, 20)
        while left < width:
            right = left + int(rng.integers(height // 9, height // 4))
            top = int(height * (rng.uniform(0.15, 0.5) + 0.14 * layer))
            block = canvas[top:, max(left, 0) : right]
            shade = 0.4 - 0.16 * layer + rng.uniform(-0.04, 0.04)
            rows, columns = np.arange(block.shape[0])[:, None] % 9, np.arange(block.shape[1])[None] % 7
            lit = rng.random((block.shape[0] // 9 + 1, block.shape[1] // 7 + 1)) < 0.35
            window = (rows > 3) & (rows < 7) & (columns > 2) & (columns < 6)
            window &= np.kron(lit, np.ones((9, 7), bool))[: block.shape[0], : block.shape[1]]
            block[:] = ramp(palette, np.where(window, 0.8, shade) * np.ones_like(window, np.float32))
            left = right + int(rng.integers(0, 6))
    return canvas


def sea(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    horizon, sun_x, sun_y = rng.uniform(0.35, 0.5), rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.25)
    glow = np.exp(-(((x - sun_x) * width / height) ** 2 + (y - sun_y) ** 2) / 0.02)
    sky = ramp(palette, np.clip(0.4 + 0.6 * y + 0.5 * glow + 0.1 * fractal(rng, height, width, 2), 0, 1))
    depth = np.clip((y - horizon) / (1 - horizon), 1e-3, 1)
    waves = np.sin(28 * np.log(depth + 0.06) + 3 * fractal(rng, height, width, 4, 3) + 0 * x)
    glitter = np.exp(-(((x - sun_x) * 5) ** 2))
    water = ramp(palette, np.clip(0.5 - 0.25 * depth + 0.05 * waves + 0.25 * glitter, 0, 1))
    return np.where((y > horizon)[..., None], water, sky)


def forest(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    canvas = ramp(palette, np.clip(0.95 - 0.35 * y + 0.15 * (fractal(rng, height, width) - 0.5) + 0 * x, 0, 1))
    bark = fractal(rng, height, width, 10, 3)
    for layer in range(4):
        for _ in range(5):
            centre, half = rng.uniform(0, 1), rng.uniform(0.006, 0.012) * (1 + 1.1 * layer)
            lean = rng.uniform(-0.03, 0.03)
            across = (x - centre - lean * (y - 0.5)) / half
            trunk = ramp(palette, np.clip(0.6 - 0.18 * layer - 0.06 * across + 0.1 * (bark - 0.5), 0, 1))
            canvas = np.where((np.abs(across) < 1)[..., None], trunk, canvas)
    ground = y > 0.86 + 0.06 * (fractal(rng, 32, width, 1, 3)[16] - 0.5)
    return np.where(ground[..., None], ramp(palette, 0.1 + 0.2 * bark), canvas)


def fields(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    sites = rng.random((18, 2)) * (1, width / height)
    distance = (y[..., None] - sites[:, 0]) ** 2 + (x[..., None] * width / height - sites[:, 1]) ** 2
    nearest = np.sort(distance, axis=-1)[..., :2]
    owner = distance.argmin(-1)
    angle, tone = rng.uniform(0, pi, 18)[owner], rng.uniform(0.2, 0.85, 18)[owner]
    furrows = np.sin((np.cos(angle) * y + np.sin(angle) * x * width / height) * 130)
    level = tone + 0.04 * furrows + 0.1 * (fractal(rng, height, width, 6) - 0.5)
    hedge = nearest[..., 1] ** 0.5 - nearest[..., 0] ** 0.5 < 0.012
    return ramp(palette, np.clip(np.where(hedge, 0.08, level), 0, 1))


def room(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    stripes = 0.03 * np.sign(np.sin(x * rng.integers(50, 80)))
    canvas = ramp(palette, 0.58 + stripes + 0.12 * (0.5 - y))
    floor = ramp(
        palette, 0.3 + 0.06 * np.sign(np.sin((x - 0.5) / (y + 0.1) * 40)) + 0.05 * fractal(rng, height, width, 8)
    )
    canvas = np.where((y > 0.76)[..., None], floor, canvas)

    def box(left: float, top: float, right: float, bottom: float, level: np.ndarray | float) -> None:
        rows, columns = slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
        canvas[rows, columns] = ramp(palette, np.broadcast_to(level, (height, width))[rows, columns])

    left = rng.uniform(0.1, 0.5)
    box(left, 0.14, left + 0.26, 0.56, 0.12)
    box(left + 0.012, 0.16, left + 0.125, 0.54, 0.85 + 0.15 * (1 - y))
    box(left + 0.135, 0.16, left + 0.248, 0.54, 0.85 + 0.15 * (1 - y))
    shelf = (left + 0.5) % 0.75
    for row in range(3):
        box(shelf, 0.3 + 0.16 * row, shelf + 0.2, 0.32 + 0.16 * row, 0.1)
        edge = shelf
        while edge < shelf + 0.18:
            thick = rng.uniform(0.01, 0.022)
            box(
                edge,
                0.32 + 0.16 * row - rng.uniform(0.08, 0.13),
                edge + thick,
                0.3 + 0.16 * row,
                rng.uniform(0.15, 0.9),
            )
            edge += thick + 0.002
    box(0.3, 0.7, 0.72, 0.74, 0.05)
    box(0.33, 0.74, 0.35, 0.96, 0.05)
    box(0.67, 0.74, 0.69, 0.96, 0.05)
    return canvas


def clouds(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    billow = fractal(rng, height, width, 2, 6)
    cover = np.clip((billow - 0.4) / 0.25, 0, 1)
    lit = np.pad(billow, ((4, 0), (4, 0)), mode="edge")[:-4, :-4] - billow
    level = 0.3 + 0.25 * y + cover * (0.25 + 0.35 * (billow - 0.4) + 1.1 * lit) + 0 * x
    return ramp(palette, np.clip(level, 0, 1))


def dunes(rng: np.random.Generator, palette: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    warp = fractal(rng, height, width, 1, 3)
    phase = 5 * y + 2.4 * warp + rng.uniform(0.3, 1.2) * x
    slope = (phase % 1.0) ** 1.5
    ripples = 0.03 * np.sin(90 * (y + 0.3 * warp))
    body = ramp(palette, np.clip(0.28 + 0.5 * slope + ripples, 0, 1))
    return np.where((y < 0.12 + 0.1 * warp)[..., None], ramp(palette[3:], y * 4 + 0 * x), body)


PAINTERS: dict[str, Painter] = {
    painter.__name__: painter for painter in (hills, city, sea, forest, fields, room, clouds, dunes)
}
