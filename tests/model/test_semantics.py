"""Each difference between published and corrected semantics, one by one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from longvu_model import assembly, compression, geometry, regimes
from longvu_model.config import CORRECTED, PUBLISHED, LongVUConfig
from longvu_model.semantics import Semantics
from tests.model import builders


def config_with(rules: Semantics, **changes: Any) -> LongVUConfig:
    """A small configuration under an arbitrary record of rules."""

    class Configuration(LongVUConfig):
        @property
        def rules(self) -> Semantics:
            return rules

    given = builders.small_config(**changes)
    return Configuration(
        **{key: value for key, value in given.to_dict().items() if key in LongVUConfig.__annotations__}
    )


def one_video(config: LongVUConfig, frames: int, size: tuple[int, int] = (40, 40), **rest: Any) -> regimes.MediaShape:
    return shapes(config, [frames], [size], **rest)


def shapes(
    config: LongVUConfig,
    frames: list[int],
    sizes: list[tuple[int, int]],
    rows: list[int] | None = None,
    video: list[bool] | None = None,
) -> regimes.MediaShape:
    return regimes.media_shape(
        config,
        torch.tensor(rows or list(range(len(frames)))),
        torch.tensor(video or [True] * len(frames)),
        torch.tensor(frames),
        torch.tensor(sizes),
    )


def decide(config: LongVUConfig, shape: regimes.MediaShape, kept: list[int], text: list[int]) -> regimes.Regime:
    lengths = torch.tensor(text)
    return regimes.choose_regime(config, shape, torch.tensor(kept), lengths, lengths)


def test_the_two_records_differ_in_every_field() -> None:
    for field in fields(Semantics):
        assert getattr(PUBLISHED, field.name) != getattr(CORRECTED, field.name), field.name


def test_video_size_is_swapped() -> None:
    sizes, video = torch.tensor([[1080, 1920], [1080, 1920]]), torch.tensor([True, False])
    published = geometry.size_pairs(sizes, video, PUBLISHED)
    assert published.tolist() == [[1080, 1920], [1920, 1080]]
    assert geometry.size_pairs(sizes, video, CORRECTED).tolist() == [[1920, 1080], [1920, 1080]]
    # a wide video loses columns, as if it were tall, under the published rule
    assert geometry.content_rectangles(12, published).tolist() == [[0, 12, 3, 9], [3, 9, 0, 12]]


def test_text_length_ends_at_the_constant_pad_id() -> None:
    ids = torch.tensor([[151643, 5, -200, 7], [5, -200, 7, 151643]])
    mask = ids != 151643
    published = assembly.read_text(builders.small_config(semantics="published"), ids, mask)
    corrected = assembly.read_text(builders.small_config(), ids, mask)
    assert published.budget_length_B.tolist() == [0, 3]  # 0 with left padding, and the slot is counted
    assert corrected.budget_length_B.tolist() == [2, 2]
    assert published.num_text_B.tolist() == corrected.num_text_B.tolist() == [2, 2]


def test_frame_budgets_ignore_newlines() -> None:
    """120 tokens of room hold 30 low frames of 4 cells, but only 20 of the 6 tokens they really cost."""
    for ignored, reduced in ((True, False), (False, True)):
        config = config_with(replace(CORRECTED, budgets_ignore_newlines=ignored), max_sequence_length=148)
        shape = one_video(config, 29)
        assert regimes.needs_reduction(config, shape, torch.tensor([20])).tolist() == [reduced]
        kind = decide(config, shape, [12], [20]).names
        # 12 frames of 9 cells fit into 120 tokens, 12 of 12 tokens do not
        assert kind == (["full"] if ignored else ["mixed"])


def test_first_row_decides_the_regime() -> None:
    for shared, kinds in ((True, ["full", "full"]), (False, ["full", "low"])):
        config = config_with(replace(CORRECTED, regime_from_first_row=shared), max_sequence_length=148)
        shape = shapes(config, [2, 60], [(40, 40)] * 2)
        assert decide(config, shape, [2, 60], [20, 20]).names == kinds


def test_low_regime_keeps_full_tokens() -> None:
    for kept_full in (True, False):
        config = config_with(replace(CORRECTED, low_regime_keeps_full_tokens=kept_full), max_sequence_length=148)
        regime = decide(config, one_video(config, 60), [60], [20])
        assert regime.names == ["low"] and regime.drop_V.tolist() == [True]
        assert regime.base_full_V.tolist() == [kept_full]


def test_odd_channels_are_the_cosine_of_the_sine() -> None:
    times = torch.tensor([0, 3, 700])
    published = compression.frame_position(times, 8, PUBLISHED)
    corrected = compression.frame_position(times, 8, CORRECTED)
    assert torch.equal(published[:, 0::2], corrected[:, 0::2])
    assert torch.equal(published[:, 1::2], published[:, 0::2].cos())
    assert torch.allclose(corrected[:, 1::2] ** 2 + corrected[:, 0::2] ** 2, torch.ones(3, 4))


def test_images_are_shown_at_low_resolution() -> None:
    for low in (True, False):
        config = config_with(replace(CORRECTED, images_use_low_tokens=low))
        regime = decide(config, one_video(config, 1, video=[False]), [1], [20])
        assert regime.base_full_V.tolist() == [not low]
        assert regime.num_upgraded_V.tolist() == [0]


def test_zero_gain_raises() -> None:
    """A line of a picture is 3 x 1 of the full grid's cells, and empty, so all 2 x 2, of the low grid's: 6 tokens."""
    rules = replace(CORRECTED, empty_crop_uncropped=True, budgets_ignore_newlines=True)
    for raises in (True, False):
        config = config_with(replace(rules, zero_gain_raises=raises))
        shape = one_video(config, 30, (400, 4))
        assert shape.full_tokens_V.tolist() == shape.low_tokens_V.tolist() == [6]
        if raises:
            with pytest.raises(ValueError, match="semantics='corrected'"):
                decide(config, shape, [25], [20])
        else:
            assert decide(config, shape, [25], [20]).num_upgraded_V.tolist() == [0]


def drop(rules: Semantics, budget: int, frames: int = 20, tokens: int = 6) -> torch.Tensor:
    """Which of frames x tokens distinct tokens survive a budget."""
    embeds = torch.eye(frames * tokens)  # orthogonal, so nothing is redundant
    regime = regimes.Regime(
        torch.tensor([regimes.LOW]),
        torch.tensor([True]),
        torch.tensor([0]),
        torch.tensor([True]),
        torch.tensor([budget]),
    )
    counts = torch.full((frames,), tokens)
    return compression.drop_tokens(embeds, counts, torch.tensor([frames]), regime, 0.8, rules)[0]


def test_overflow_cuts_chunk_tails() -> None:
    published = drop(PUBLISHED, 90).view(20, 6)
    # chunks of 8, 8 and 4 frames lose 10 tokens each from their ends
    assert published[:6].all() and not published[7].any()
    assert published[16:18].all() and not published[19].any()
    corrected = drop(CORRECTED, 90)
    assert int(corrected.sum()) == 90
    assert corrected.view(20, 6).any(dim=1).all()
    # a negative budget drops from the end of what chunk cutting leaves
    assert int(drop(PUBLISHED, -10, frames=2).sum()) == 0
    assert int(drop(CORRECTED, 0).sum()) == 0


def test_mask_is_returned_only_if_given() -> None:
    ids = torch.cat([builders.prompt(9), builders.prompt(9, seed=1)])
    media = builders.media((2, 40, 40), (1, 40, 40))
    published = builders.small_model(semantics="published").model.see(ids, media).merged
    corrected = builders.small_model().model.see(ids, media).merged
    assert published.attention_mask is None
    assert corrected.attention_mask is not None
    assert corrected.attention_mask.sum(1).tolist() == [8 + 2 * 12, 8 + 12]


def test_generation_pads_on_the_left() -> None:
    ids = torch.cat([builders.prompt(9), builders.prompt(9, seed=1)])
    media = builders.media((2, 40, 40), (1, 40, 40))
    for semantics, first in (("published", True), ("corrected", False)):
        model = builders.small_model(semantics=semantics).model
        merged = model.see(ids, media, torch.ones_like(ids), generating=True).merged
        assert bool(merged.attention_mask[1, 0]) is first


def test_row_without_a_slot_consumes_a_dummy_image() -> None:
    ids = torch.cat([builders.prompt(9), builders.prompt(9, slots=(), seed=1)])
    layout = assembly.read_text(builders.small_config(), ids, None)
    rows, slots = assembly.rows_of_media(layout, 2, PUBLISHED)
    assert rows.tolist() == [0, 1] and slots.tolist() == [3, -1]
    rows, slots = assembly.rows_of_media(layout, 1, CORRECTED)
    assert rows.tolist() == [0] and slots.tolist() == [3]
    with pytest.raises(ValueError, match="2 images and videos for 1 places"):
        assembly.rows_of_media(layout, 2, CORRECTED)


def test_empty_crop_falls_back_to_the_whole_grid() -> None:
    pair = torch.tensor([[200.0, 2.0], [2.0, 200.0]])
    assert geometry.crop_rectangles(4, pair, PUBLISHED).tolist() == [[0, 4, 0, 4], [0, 4, 0, 4]]
    assert geometry.crop_rectangles(4, pair, CORRECTED).tolist() == [[2, 3, 0, 4], [0, 4, 2, 3]]


def test_vanishing_low_size_raises() -> None:
    with pytest.raises(ValueError, match="height 0"):
        one_video(builders.small_config(semantics="published"), 4, (40, 1))
    assert int(one_video(builders.small_config(), 4, (1, 40)).low_tokens_V) > 0


def test_answers_guide_resolution() -> None:
    ids = builders.prompt(10, slots=(2,))
    labels = torch.where(torch.arange(10) >= 7, ids, -100)
    table = torch.nn.Embedding(builders.VOCABULARY, 8)
    layout = assembly.read_text(builders.small_config(), ids, None)
    published = assembly.mean_question(layout, table, labels, PUBLISHED)
    corrected = assembly.mean_question(layout, table, labels, CORRECTED)
    assert torch.allclose(published, table(ids[:, 3:]).mean(1))
    assert torch.allclose(corrected, table(ids[:, 3:7]).mean(1))


def test_media_of_a_row_share_its_budget() -> None:
    for first_only in (True, False):
        config = config_with(replace(CORRECTED, first_medium_budget=first_only), max_sequence_length=148)
        shape = shapes(config, [15, 15], [(40, 40)] * 2, rows=[0, 0])
        regime = decide(config, shape, [15, 15], [20])
        assert regime.budget_V.tolist() == ([120, 120] if first_only else [60, 60])
        assert regime.drop_V.tolist() == ([False, False] if first_only else [True, True])


def test_default_drop_threshold() -> None:
    assert builders.small_config(semantics="published").drop_threshold == 0.7
    assert builders.small_config().drop_threshold == 0.8
    assert builders.small_config(semantics="published", drop_threshold=0.65).drop_threshold == 0.65
