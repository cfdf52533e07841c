"""The fast token path against its oracle, over random shapes and budgets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.sight import Media
from tests.model import builders
from tests.oracles.compression import token_path


def features(model: LongVUForConditionalGeneration, frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tower features that drift, so that temporal reduction keeps a part of the frames."""
    generator = torch.Generator().manual_seed(seed)
    tokens = model.config.token_grid**2
    dino = torch.randn(frames, tokens, 32, generator=generator).cumsum(0)
    return dino, torch.randn(frames, tokens, 24, generator=generator)


@pytest.fixture(scope="module")
def model() -> LongVUForConditionalGeneration:
    return builders.small_model(semantics="published", frame_pos=True)


@settings(max_examples=40)
@given(
    frames=st.integers(1, 70),
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    limit=st.integers(30, 500),
    dino_threshold=st.sampled_from([0.5, 0.83, 0.95, 1.1]),
    drop_threshold=st.sampled_from([-0.5, 0.2, 0.8, 2.0]),
    seed=st.integers(0, 3),
)
@example(frames=450, size=(36, 64), limit=400, dino_threshold=1.1, drop_threshold=0.5, seed=0)
@example(frames=1, size=(40, 40), limit=30, dino_threshold=0.83, drop_threshold=0.8, seed=0)
def test_fast_path_equals_oracle(
    model: LongVUForConditionalGeneration,
    frames: int,
    size: tuple[int, int],
    limit: int,
    dino_threshold: float,
    drop_threshold: float,
    seed: int,
) -> None:
    config = model.config
    config.max_sequence_length, config.dino_threshold, config.drop_threshold = limit, dino_threshold, drop_threshold
    dino, siglip = features(model, frames, seed)
    ids = builders.prompt(18, slots=(4,), seed=seed)
    media = Media(
        torch.tensor([frames]),
        torch.tensor([size]),
        torch.tensor([True]),
        siglip_features=siglip,
        dino_features=dino,
    )
    with torch.no_grad():
        try:
            expected = token_path(model, ids, dino, siglip, size)
        except ZeroDivisionError:
            with pytest.raises(ValueError, match=r"full and low resolution|height 0"):
                model.model.see(ids, media)
            return
        sight = model.model.see(ids, media)
    assert sight.media.kept_frames_F.tolist() == expected.kept
    assert sight.visual.upgraded_F.nonzero()[:, 0].tolist() == expected.upgraded
    torch.testing.assert_close(sight.merged.inputs_embeds, expected.inputs_embeds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grids", [{"query_grids": [3, 6]}, {"query_grids": [2]}, {"mixed_resolution": False}])
@pytest.mark.parametrize("limit", [60, 200, 900])
def test_other_grids_keep_the_budget(grids: dict[str, object], limit: int) -> None:
    model = builders.small_model(max_sequence_length=limit, **grids)
    with torch.no_grad():
        sight = model.model.see(builders.prompt(18), builders.media((40, 36, 64)))
    visual = int(sight.visual.counts_V[0])
    assert 0 < visual <= limit - model.config.answer_reserve - 17
    assert sight.merged.inputs_embeds.shape[1] == 17 + visual
