"""Frames to pixel tensors of both towers, exactly as the release computes them (SEMANTICS section 2.2).

Each frame is padded to a square in the tower's mean colour, resized by Pillow's antialiased bicubic filter, whose 8-bit
rounding is part of the behaviour, and normalised. Pictures are media of one frame; videos are in
:mod:`longvu_model.video_processing`.

Shapes: T frames of one medium, F frames of all media, V media, H x W pixels, s the input side of a tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from longvu_model.media import Frames, Medium, check_frames, flatten, load_image
from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD, TowerPixels, square

MODEL_INPUT_NAMES = ["pixel_values_siglip", "pixel_values_dino", "frame_counts", "image_sizes", "is_video"]


def preprocess_frames(
    frames: Frames,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    fill: Sequence[int] | None = None,
    *,
    crop: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Pixel tensor of one tower.

    Args:
        frames: uint8 (T, H, W, 3) RGB, or pictures of one size (converted to RGB).
        size: input side s of the tower.
        mean: of each channel, in [0, 1].
        std: of each channel.
        fill: colour of the padding, 0 to 255; by default the mean's, cut to integers, as published.
        crop: take the central square instead of padding.
        out: contiguous float32 (T, 3, s, s) on the CPU to write into.

    Returns:
        float32 (T, 3, s, s); ``out`` if given.

    Raises:
        ValueError: frames or output of another shape or dtype.
    """
    check_frames(frames)
    tower = TowerPixels(size, tuple(mean), tuple(std), crop)  # type: ignore[arg-type]
    colour = tower.fill if fill is None else tuple(fill)
    shape = (len(frames), 3, size, size)
    if out is None:
        out = torch.empty(shape)
    elif tuple(out.shape) != shape or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}: it must be contiguous torch.float32 {shape}")
    pixels, table = out.numpy(), tower.normalized
    for frame, target in zip(frames, pixels, strict=True):
        picture = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        resized = np.asarray(square(picture, size, colour))
        for channel in range(3):
            # 8-bit indices never leave the table; clip spares numpy the buffer it needs to check that.
            np.take(table[channel], resized[:, :, channel], out=target[channel], mode="clip")
    return out


def pixel_inputs(media: Sequence[tuple[Medium, TowerPixels, TowerPixels]]) -> dict[str, Tensor]:
    """Model inputs of media in slot order, each with its SigLIP and DINOv2 preprocessing.

    Returns:
        ``pixel_values_siglip`` (F, 3, s, s), ``pixel_values_dino`` (F, 3, d, d) float32, ``frame_counts`` int64 (V,),
        ``image_sizes`` int64 (V, 2) as (height, width), ``is_video`` bool (V,); empty without media.
    """
    if not media:
        return {}
    counts = [len(medium.frames) for medium, _, _ in media]
    inputs: dict[str, Tensor] = {}
    for position, name in ((1, "pixel_values_siglip"), (2, "pixel_values_dino")):
        towers: list[TowerPixels] = [entry[position] for entry in media]  # type: ignore[misc]
        pixels = torch.empty(sum(counts), 3, towers[0].size, towers[0].size)
        for (medium, _, _), tower, out in zip(media, towers, pixels.split(counts), strict=True):
            preprocess_frames(medium.frames, tower.size, tower.mean, tower.std, out=out)
        inputs[name] = pixels
    inputs["frame_counts"] = torch.tensor(counts)
    inputs["image_sizes"] = torch.tensor([medium.size for medium, _, _ in media])
    inputs["is_video"] = torch.tensor([medium.is_video for medium, _, _ in media])
    return inputs


class TowerPixelsKwargs(TypedDict, total=False):
    """Fields of both processors that fix the pixels of the two towers."""

    siglip_size: int
    siglip_mean: tuple[float, float, float]
    siglip_std: tuple[float, float, float]
    dino_size: int
    dino_mean: tuple[float, float, float]
    dino_std: tuple[float, float, float]


class PictureProcessor(BaseImageProcessor):
    """Pictures to model inputs; a family says what pixels its towers take."""

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """Model inputs of decoded media."""
        raise NotImplementedError

    def load(self, source: Any) -> Medium:
        """One picture as a medium; see :func:`load_image` for what can be given."""
        return Medium([load_image(source)], is_video=False)

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Model inputs of one picture or a (nested) list of them, in order; see :meth:`media_inputs`."""
        check_call(return_tensors, kwargs)
        return BatchFeature(self.media_inputs([self.load(source) for source in flatten(images)]))


class TwoTowers:
    """What LongVU's processors share, in front of the family-independent base: the pixels of SigLIP and DINOv2.

    Defaults are the published towers'.

    Args:
        siglip_size: input side of the SigLIP tower in pixels.
        siglip_mean: per RGB channel, in [0, 1].
        siglip_std: per RGB channel.
        dino_size: input side of the DINOv2 tower in pixels.
        dino_mean: per RGB channel, in [0, 1].
        dino_std: per RGB channel.
        **kwargs: of the base.
    """

    model_input_names = MODEL_INPUT_NAMES

    def __init__(
        self,
        siglip_size: int = 384,
        siglip_mean: Sequence[float] = SIGLIP_MEAN,
        siglip_std: Sequence[float] = SIGLIP_STD,
        dino_size: int = 378,
        dino_mean: Sequence[float] = IMAGENET_MEAN,
        dino_std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.siglip_size, self.siglip_mean, self.siglip_std = siglip_size, list(siglip_mean), list(siglip_std)
        self.dino_size, self.dino_mean, self.dino_std = dino_size, list(dino_mean), list(dino_std)
        tower_pixels(self)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        return pixel_inputs([(medium, *tower_pixels(self)) for medium in media])


class LongVUImageProcessor(TwoTowers, PictureProcessor):
    """Pictures to model inputs; saved as ``preprocessor_config.json``."""

    valid_kwargs = TowerPixelsKwargs  # type: ignore[assignment]


def tower_pixels(processor: Any) -> tuple[TowerPixels, TowerPixels]:
    """SigLIP and DINOv2 preprocessing of an image or video processor."""
    return (
        TowerPixels(processor.siglip_size, tuple(processor.siglip_mean), tuple(processor.siglip_std)),
        TowerPixels(processor.dino_size, tuple(processor.dino_mean), tuple(processor.dino_std)),
    )


def check_call(return_tensors: str | None, unknown: dict[str, Any]) -> None:
    """Raise ``ValueError`` for another tensor type than PyTorch's, and for arguments that nothing here uses."""
    if return_tensors not in ("pt", None):
        raise ValueError(f"return_tensors={return_tensors!r}: only 'pt' is made")
    if unknown:
        raise ValueError(f"unknown argument {', '.join(sorted(unknown))}")
