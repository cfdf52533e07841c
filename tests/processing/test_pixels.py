"""Pixel preprocessing against the plain description of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from longvu_model.image_processing import pixel_inputs, preprocess_frames
from longvu_model.media import Medium
from longvu_model.tower_pixels import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIGLIP_MEAN,
    SIGLIP_STD,
    TowerPixels,
)


def plain_preprocess(frame: np.ndarray, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Step by step as specified: pad to a square, resize, rescale in double precision, normalise in single."""
    height, width = frame.shape[:2]
    long = max(height, width)
    square = Image.new("RGB", (long, long), tuple(int(255 * value) for value in mean))
    square.paste(Image.fromarray(frame), ((long - width) // 2, (long - height) // 2))
    resized = np.array(square.resize((size, size)))
    unit = (resized * (1 / 255)).astype(np.float32)
    return ((unit - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(1, 60),
    tower=st.sampled_from([(SIGLIP_MEAN, SIGLIP_STD), (IMAGENET_MEAN, IMAGENET_STD)]),
    seed=st.integers(0, 99),
)
def test_every_bit_as_specified(height: int, width: int, size: int, tower: tuple, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    pixels = preprocess_frames(frames, size, *tower)
    assert pixels.shape == (2, 3, size, size)
    assert pixels.dtype == torch.float32
    for frame, ours in zip(frames, pixels.numpy(), strict=True):
        np.testing.assert_array_equal(ours, plain_preprocess(frame, size, *tower))


def test_pictures_equal_arrays() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 11, 23, 3), dtype=np.uint8)
    pictures = [Image.fromarray(frame) for frame in frames]
    arrays = preprocess_frames(frames, 16, SIGLIP_MEAN, SIGLIP_STD)
    assert torch.equal(preprocess_frames(pictures, 16, SIGLIP_MEAN, SIGLIP_STD), arrays)


def test_other_modes_become_rgb() -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    pixels = preprocess_frames([grey], 8, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(pixels, preprocess_frames([grey.convert("RGB")], 8, IMAGENET_MEAN, IMAGENET_STD))


def test_padding_has_the_mean_colour_or_the_given_one() -> None:
    black = np.zeros((1, 4, 16, 3), np.uint8)
    top = preprocess_frames(black, 16, IMAGENET_MEAN, IMAGENET_STD)[0, :, 0, 0]
    assert top.abs().max() < 1 / 255 / 0.224
    top = preprocess_frames(black, 16, SIGLIP_MEAN, SIGLIP_STD, fill=(255, 0, 255))[0, :, 0, 0]
    assert top.tolist() == [1.0, -1.0, 1.0]
    assert TowerPixels(378, IMAGENET_MEAN, IMAGENET_STD).fill == (123, 116, 103)
    assert TowerPixels(384, SIGLIP_MEAN, SIGLIP_STD).fill == (127, 127, 127)


def test_writes_into_the_given_tensor() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 5, 3), dtype=np.uint8)
    out = torch.full((4, 3, 8, 8), 7.0)
    preprocess_frames(frames, 8, SIGLIP_MEAN, SIGLIP_STD, out=out[1:3])
    assert torch.equal(out[1:3], preprocess_frames(frames, 8, SIGLIP_MEAN, SIGLIP_STD))
    assert bool((out[[0, 3]] == 7).all())


@pytest.mark.parametrize(
    "out", [torch.empty(1, 3, 8, 8), torch.empty(2, 3, 8, 8, dtype=torch.float16), torch.empty(2, 8, 8, 3).mT.mT[:, :3]]
)
def test_wrong_output_tensor(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"it must be contiguous torch.float32 \(2, 3, 8, 8\)"):
        preprocess_frames(np.zeros((2, 4, 4, 3), np.uint8), 8, SIGLIP_MEAN, SIGLIP_STD, out=out)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_wrong_frames_are_named(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give uint8 \(frames, height, width, 3\) RGB"):
        preprocess_frames(frames, 8, SIGLIP_MEAN, SIGLIP_STD)


def test_a_medium_has_one_size() -> None:
    with pytest.raises(ValueError, match=r"several sizes \[\(4, 4\), \(4, 5\)\]"):
        Medium([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], is_video=True)
    with pytest.raises(ValueError, match="without frames"):
        Medium([], is_video=True)


def test_tower_values_are_checked() -> None:
    with pytest.raises(ValueError, match="tower input size 0"):
        TowerPixels(0, SIGLIP_MEAN, SIGLIP_STD)
    with pytest.raises(ValueError, match="std above 0"):
        TowerPixels(8, SIGLIP_MEAN, (1.0, 0.0, 1.0))


def test_stores_made_before_cropping_existed_still_fit() -> None:
    before = {"size": 8, "mean": SIGLIP_MEAN, "std": SIGLIP_STD}
    assert TowerPixels(8, SIGLIP_MEAN, SIGLIP_STD).facts == before
    assert TowerPixels(8, SIGLIP_MEAN, SIGLIP_STD, crop=True).facts == {**before, "crop": True}


@pytest.mark.parametrize("size", [(40, 20), (21, 64), (17, 17)])
def test_crops_as_the_library_does_for_clip(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    library = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    expected = torch.as_tensor(np.stack(library(Image.fromarray(pixels[0]))["pixel_values"]))
    mine = preprocess_frames(pixels, 16, CLIP_MEAN, CLIP_STD, crop=True)
    torch.testing.assert_close(mine, expected, rtol=0, atol=2e-6)


def test_media_are_packed_in_order() -> None:
    towers = (TowerPixels(8, SIGLIP_MEAN, SIGLIP_STD), TowerPixels(6, IMAGENET_MEAN, IMAGENET_STD))
    frames = np.random.default_rng(0).integers(0, 256, (3, 10, 20, 3), dtype=np.uint8)
    media = [Medium(frames, is_video=True), Medium([Image.new("RGB", (5, 9))], is_video=False)]
    inputs = pixel_inputs([(medium, *towers) for medium in media])
    assert inputs["frame_counts"].tolist() == [3, 1]
    assert inputs["image_sizes"].tolist() == [[10, 20], [9, 5]]
    assert inputs["is_video"].tolist() == [True, False]
    expected = preprocess_frames(frames, 6, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(inputs["pixel_values_dino"][:3], expected)
    assert inputs["pixel_values_siglip"].shape == (4, 3, 8, 8)
    assert pixel_inputs([]) == {}
