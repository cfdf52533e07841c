"""Encoding a unit against the plain loop: frame for frame the same, however batches are cut and whatever fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from longvu_model.frame_selection import window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.tower_runner import TowerRunner
from pipelines.errors import UserError
from pipelines.extract.encode import Encoder, EncodeSettings, encode_unit, whole_windows, window_sizes
from pipelines.extract.towers import TowerBundle
from pipelines.store.features import cast_features, raw_bytes

Unit = tuple[dict[str, Any], dict[str, np.ndarray]]
# A long source, an image, an empty source, one that keeps everything, a chunk of a longer one.
COUNTS = (90, 1, 0, 20, 16)


@pytest.fixture(scope="module")
def unit() -> Unit:
    """Scenes of 7 frames: a colour each, a square that moves, noise."""
    random = np.random.default_rng(0)
    total = sum(COUNTS)
    frames = np.empty((total, 96, 96, 3), np.uint8)
    for place in range(total):
        colour = np.random.default_rng(place // 7).integers(0, 256, 3)
        frames[place] = colour
        frames[place, 30:50, place % 60 : place % 60 + 20] = 255 - colour
    frames ^= random.integers(0, 4, frames.shape, dtype=np.uint8)
    members = [{"num_sampled": count, "num_chunks": 1, "total_samples": None} for count in COUNTS]
    members[-1] |= {"num_chunks": 3, "total_samples": 48}
    arrays: dict[str, np.ndarray] = {"dinov2": frames, "siglip": frames, "frame_index": np.arange(total)}
    return {"unit_id": "u", "members": members}, arrays


@pytest.fixture
def encoder(bundle: TowerBundle) -> Encoder:
    specs = tuple(bundle.spec(name, "float16") for name in ("dinov2", "siglip"))
    return Encoder.load(bundle, EncodeSettings(specs, 0.9, 20, "float32", 32))


@torch.inference_mode()
def plain_loop(unit: Unit, encoder: Encoder, bundle: TowerBundle) -> dict[str, np.ndarray]:
    """The oracle: source after source, batch after batch, everything made and what is not stored thrown away."""
    header, arrays = unit
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("similarity", "kept", "stored", "dinov2", "siglip")}
    towers = {name: bundle.build(name) for name in ("dinov2", "siglip")}
    first = 0
    for member in header["members"]:
        total = member["total_samples"] or member["num_sampled"]
        for start in range(first, first + member["num_sampled"], 32):
            frames = arrays["dinov2"][start : min(start + 32, first + member["num_sampled"])]
            features = {}
            for name, tower in towers.items():
                features[name] = tower(preprocess_frames(frames, 96, tower.image_mean, tower.image_std))
            similarity = window_similarity(features["dinov2"])
            kept = similarity < 0.9
            stored = kept | (total <= 20)
            for name, values in (("similarity", similarity), ("kept", kept), ("stored", stored)):
                parts[name].append(values.numpy())
            for spec in encoder.settings.specs:
                parts[spec.name].append(raw_bytes(cast_features(features[spec.name][stored], spec)))
        first += member["num_sampled"]
    return {name: np.concatenate(values) for name, values in parts.items()}


def as_numbers(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return arrays[name].view(np.float16).astype(np.float32)


def assert_close(arrays: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    np.testing.assert_allclose(arrays["similarity"], expected["similarity"], atol=1e-5)
    for name in ("kept", "stored"):
        assert np.array_equal(arrays[name], expected[name])
    for name in ("dinov2", "siglip"):
        np.testing.assert_allclose(as_numbers(arrays, name), as_numbers(expected, name), rtol=2e-3, atol=2e-3)


def test_a_unit_is_what_the_plain_loop_gives(unit: Unit, encoder: Encoder, bundle: TowerBundle) -> None:
    header, arrays = encode_unit(*unit, encoder)
    expected = plain_loop(unit, encoder, bundle)
    for name in ("similarity", "kept", "stored", "dinov2"):
        assert np.array_equal(arrays[name], expected[name]), name
    assert_close(arrays, expected)
    assert header["notes"] == {} and header["unit_id"] == "u"
    assert 0 < expected["kept"].sum() < len(expected["kept"])
    stored = [member["num_stored"] for member in header["members"]]
    assert stored[1:4] == [1, 0, 20] and sum(stored) == len(arrays["dinov2"]) == len(arrays["siglip"])
    assert [member["num_kept"] for member in header["members"]] == [
        int(part.sum()) for part in np.split(expected["kept"], np.cumsum(COUNTS)[:-1])
    ]
    assert np.array_equal(arrays["frame_index"], unit[1]["frame_index"])


def test_batches_of_one_shape_over_all_sources_give_the_same(unit: Unit, encoder: Encoder, bundle: TowerBundle) -> None:
    packed = {
        name: TowerRunner(
            bundle.build(name), device=torch.device("cpu"), dtype=torch.float32, batch_frames=48, one_shape=True
        )
        for name in encoder.runners
    }
    _, arrays = encode_unit(*unit, dataclasses.replace(encoder, runners=packed))
    assert_close(arrays, plain_loop(unit, encoder, bundle))


def run_out_beyond(encoder: Encoder, most: int) -> None:
    """Towers that raise the allocator's own error for more frames."""
    for runner in encoder.runners.values():

        def encode(pixels: torch.Tensor, inner: Any = runner._encode) -> torch.Tensor:
            if len(pixels) > most:
                torch.empty(1 << 60)
            return inner(pixels)  # type: ignore[no-any-return]

        runner._encode = encode


def test_batches_that_do_not_fit_are_halved_and_the_header_says_so(
    unit: Unit, encoder: Encoder, bundle: TowerBundle
) -> None:
    run_out_beyond(encoder, most=16)
    header, arrays = encode_unit(*unit, encoder)
    assert encoder.batch_frames == 16
    assert header["notes"] == {"units encoded 16 frames at a time for want of memory": 1}
    assert_close(arrays, plain_loop(unit, encoder, bundle))


def test_no_memory_at_all_is_one_line(unit: Unit, encoder: Encoder) -> None:
    run_out_beyond(encoder, most=1)
    with pytest.raises(UserError, match=r"batches of 16 frames do not fit the memory of cpu; set encode\.precision"):
        encode_unit(*unit, encoder)


def test_windows_are_whole_whatever_the_batches() -> None:
    sizes = window_sizes([20, 1, 0, 33])
    assert sizes == [16, 4, 1, 16, 16, 1]
    features = torch.arange(54)
    for batch in (1, 7, 16, 64):
        cut = list(whole_windows(features.split(batch), sizes))
        assert torch.equal(torch.cat([part for part, _ in cut]), features)
        assert [size for _, ready in cut for size in ready] == sizes
        assert all(len(part) == sum(ready) for part, ready in cut)
