"""Window similarity and frame selection against the obvious loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longvu_model import frame_selection, ragged
from longvu_model.frame_selection import keep_frames, thin_evenly, window_similarity


def obvious_similarity(features: torch.Tensor) -> list[float]:
    scores: list[float] = []
    for start in range(0, len(features), 16):
        window = [frame.double() / frame.double().norm() for frame in features[start : start + 16].flatten(1)]
        for index, frame in enumerate(window):
            centre = index == len(window) // 2
            scores.append(0.0 if centre else float(sum(frame @ other for other in window)) / len(window))
    return scores


@pytest.mark.parametrize("counts", [[1], [2], [15], [16], [17], [33], [5, 40, 16, 1, 31]])
def test_similarity_equals_the_loop(counts: list[int]) -> None:
    features = torch.randn(sum(counts), 4, 6, generator=torch.Generator().manual_seed(0)).cumsum(0)
    expected = [score for part in features.split(counts) for score in obvious_similarity(part)]
    mine = window_similarity(features, torch.tensor(counts))
    assert mine.dtype == torch.float32
    assert mine.tolist() == pytest.approx(expected, abs=1e-6)


def test_similarity_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(200, 4, 6)
    whole = window_similarity(features)
    monkeypatch.setattr(frame_selection, "_CPU_BLOCK", 1)
    torch.testing.assert_close(window_similarity(features), whole)
    # a long video may be scored in pieces cut at multiples of 16
    pieces = torch.cat([window_similarity(features[:96]), window_similarity(features[96:])])
    torch.testing.assert_close(pieces, whole)


def test_half_precision_is_compared_in_float32() -> None:
    features = torch.randn(32, 4, 6).bfloat16()
    torch.testing.assert_close(window_similarity(features), window_similarity(features.float()))


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=4), cap=st.integers(1, 20), seed=st.integers(0, 99))
def test_cap_equals_the_loop(counts: list[int], cap: int, seed: int) -> None:
    similarity = torch.rand(sum(counts), generator=torch.Generator().manual_seed(seed))
    expected = []
    for part in similarity.split(counts):
        kept = [index for index, value in enumerate(part.tolist()) if value < 0.7]
        if len(part) >= 16 and len(kept) > cap:
            kept = [kept[int(i * (len(kept) / cap))] for i in range(cap)]
        expected += [index in kept for index in range(len(part))]
    assert keep_frames(similarity, 0.7, torch.tensor(counts), cap).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=5))
def test_thinning_keeps_exactly_the_limit(rows: list[tuple[int, int]]) -> None:
    counts, limits = torch.tensor([count for count, _ in rows]), torch.tensor([limit for _, limit in rows])
    owner, offset = ragged.expand(counts)
    keep = thin_evenly(counts, limits, owner, offset)
    for index, (count, limit) in enumerate(rows):
        kept = offset[keep & (owner == index)].tolist()
        if count <= limit:
            assert kept == list(range(count))
        else:
            assert kept == [math.trunc(i * (count / limit)) for i in range(limit)]
