"""Tiny videos for samples: a grey room in which a coloured shape is seen during the middle half."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.corpus.needle import needle_sprite

SIZE = (128, 96)
_CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}


def pictures(colour: str, shape: str, count: int, size: tuple[int, int] = SIZE) -> Iterator[Image.Image]:
    """``count`` frames; the shape is in the middle half of them."""
    width, height = size
    sprite = needle_sprite(colour, shape, 0.12 * width * height)
    room = np.linspace(70, 150, width)[None, :, None] + np.zeros((height, 1, 3))
    for number in range(count):
        # The room drifts, so that no two frames are equal.
        picture = Image.fromarray(np.roll(room, number, axis=1).astype(np.uint8))
        if count // 4 <= number < count - count // 4:
            picture.paste(sprite, ((width - sprite.width) // 2, (height - sprite.height) // 2), sprite)
        yield picture


def write_clip(
    path: Path, colour: str, shape: str, *, seconds: int = 4, rate: int = 5, size: tuple[int, int] = SIZE
) -> Path:
    """A video in the container that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(_CODECS[path.suffix], rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"threads": "1"}
        for picture in pictures(colour, shape, seconds * rate, size):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, name: str, colour: str, shape: str, count: int) -> Path:
    """A folder of JPEGs, numbered from 1 by the pattern ``name``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures(colour, shape, count), 1):
        picture.save(folder / name.format(number), quality=90)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
