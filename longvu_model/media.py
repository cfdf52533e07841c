"""Media as the processors hold them: the decoded frames of a picture or a video, and how pictures are opened.

Only local files are opened here; whoever accepts addresses from outside fetches them first.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

Frames = np.ndarray | Sequence[Image.Image]
"""Frames of one medium: uint8 (T, H, W, 3) RGB, or pictures of one size."""


@dataclass(frozen=True)
class Medium:
    """One decoded picture or video; ``metadata`` says where its frames lie in time, if that is known."""

    frames: Frames
    is_video: bool
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_frames(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        first = self.frames[0]
        return (first.height, first.width) if isinstance(first, Image.Image) else (first.shape[0], first.shape[1])


def check_frames(frames: Frames) -> None:
    """Raise ``ValueError`` unless ``frames`` is uint8 (T, H, W, 3) or a list of pictures of one size, T >= 1."""
    if isinstance(frames, np.ndarray):
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ValueError(
                f"frames of shape {frames.shape} and dtype {frames.dtype}: give uint8 (frames, height, width, 3) RGB"
            )
        return
    if not len(frames):
        raise ValueError("a medium without frames: give at least one")
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"frames of several sizes {sorted(sizes)} (width, height): all frames of a video must agree")


def local_path(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """``source`` as a local path; a ``file://`` prefix is taken off.

    Raises:
        ValueError: an address of another scheme: this package opens local files only.
    """
    if not isinstance(source, str) or "://" not in source:
        return source
    scheme, _, path = source.partition("://")
    if scheme != "file":
        raise ValueError(f"{source!r}: only local files are opened here; download it first and give its path or bytes")
    return path


def load_image(source: Any) -> Image.Image:
    """A picture from a local path, its bytes, a binary file object, base64 text, uint8 (H, W, 3), or a picture.

    It is turned as its EXIF orientation says, as every picture that is decoded as a video is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, or of a kind not listed.
    """
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source).convert("RGB")
    if isinstance(source, Tensor):
        source = source.numpy()
    if isinstance(source, np.ndarray):
        check_frames(source[None])
        return Image.fromarray(source)
    if isinstance(source, str) and source.startswith("data:"):
        source = _base64_bytes(source.partition(",")[2])
    if isinstance(source, str | Path):
        file: Any = local_path(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        file = io.BytesIO(source)
    elif hasattr(source, "read"):
        file = source
    else:
        raise ValueError(f"an image of type {type(source).__name__}: give a path, bytes, uint8 array or PIL picture")
    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except OSError as error:
        if error.errno is not None:
            raise
        # Pillow's own complaints, such as an unknown format or a cut file, carry no errno.
        name = repr(str(source)) if isinstance(source, str | Path) else "the given bytes"
        raise ValueError(f"{name}: not a picture that Pillow can read ({str(error).partition(' <')[0]})") from None


def _base64_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"base64 image: {error}") from None


def flatten(nested: Any) -> list[Any]:
    """Items of a value, a list or nested lists, in order."""
    if isinstance(nested, list | tuple):
        return [item for part in nested for item in flatten(part)]
    return [nested]
