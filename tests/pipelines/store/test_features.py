"""Features as bytes: nothing changes on the way, whatever the slicing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.store.features import (
    DTYPES,
    FeatureSpec,
    add_digests,
    cast_features,
    content_digest,
    decode,
    encode,
    raw_bytes,
)


@given(
    dtype=st.sampled_from(DTYPES),
    stored=st.lists(st.booleans(), max_size=40),
    start=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_round_trip_of_any_slice(dtype: str, stored: list[bool], start: int, seed: int) -> None:
    spec = FeatureSpec("dinov2", 3, 5, dtype)
    stored_T = np.array(stored, bool)
    generator = torch.Generator().manual_seed(seed)
    features = cast_features(torch.randn(int(stored_T.sum()), 3, 5, generator=generator) * 30, spec)
    column = encode(raw_bytes(features).reshape(-1, spec.frame_bytes), stored_T, spec)
    assert [value is not None for value in column.to_pylist()] == stored
    begin = min(start, len(stored))
    halves = pa.chunked_array([column.slice(0, begin), column.slice(begin)], type=pa.large_binary())
    assert torch.equal(decode(halves, spec).view(torch.uint8), features.view(torch.uint8))
    tail = pa.chunked_array([column.slice(begin)])
    assert torch.equal(decode(tail, spec).view(torch.uint8), features[int(stored_T[:begin].sum()) :].view(torch.uint8))


def test_a_reader_without_our_code_needs_four_lines() -> None:
    spec = FeatureSpec("dinov2", 2, 3, "float16")
    features = torch.randn(4, 2, 3).half()
    column = encode(raw_bytes(features), np.ones(4, bool), spec)
    value = column[1].as_py()
    low, high = np.frombuffer(value, np.uint8).reshape(2, -1)
    numbers = np.stack([low, high], axis=1).reshape(-1).view("<f2").reshape(2, 3)
    assert np.array_equal(numbers, features[1].numpy())


def test_a_column_says_how_its_bytes_are_read() -> None:
    spec = FeatureSpec("siglip", 576, 1152, "bfloat16")
    assert spec.field().metadata == {b"shape": b"[576, 1152]", b"dtype": b"bfloat16", b"encoding": b"byte_split"}


def test_numbers_that_do_not_fit() -> None:
    spec = FeatureSpec("dinov2", 1, 1, "float16")
    for value in (1e6, float("nan"), float("inf")):
        with pytest.raises(UserError, match="not finite as float16; store them with dtype=bfloat16"):
            cast_features(torch.full((1, 1, 1), value), spec)
    assert cast_features(torch.full((1, 1, 1), 1e6), FeatureSpec("dinov2", 1, 1, "bfloat16")).isfinite().all()
    eight = FeatureSpec("dinov2", 1, 1, "float8_e4m3fn")
    assert cast_features(torch.full((1, 1, 1), 1e6), eight).float().item() == 448
    with pytest.raises(UserError):
        cast_features(torch.full((1, 1, 1), float("nan")), eight)


def test_wrong_lengths_are_refused() -> None:
    spec = FeatureSpec("dinov2", 2, 3)
    with pytest.raises(ValueError, match="dinov2"):
        encode(np.zeros((2, spec.frame_bytes), np.uint8), np.ones(3, bool), spec)
    column = pa.chunked_array([pa.array([b"x" * 5], pa.large_binary())])
    with pytest.raises(ValueError, match="5 bytes for 1 frames of 12"):
        decode(column, spec)


def test_digest_does_not_depend_on_the_cut_but_on_everything_else() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (7, 12)).astype(np.uint8)
    index = np.arange(7) * 30
    whole = content_digest(raw, index)
    assert add_digests([content_digest(raw[:3], index[:3]), content_digest(raw[3:], index[3:])]) == whole
    assert content_digest(raw[::-1].copy(), index) != whole
    changed = raw.copy()
    changed[6, 11] ^= 1
    assert content_digest(changed, index) != whole
