"""Global batches: every sample once, whoever learns them; full bins, even steps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.train.bins import best_fit_decreasing
from pipelines.train.length_grouped import length_grouped_batches
from pipelines.train.plan import (
    PlanSettings,
    SampleCosts,
    TrainingPlan,
    deal,
    dealt_flops,
    plan_epoch,
)

BUDGET = 64


def costs(tokens: list[int] | np.ndarray, digest: str = "manifest") -> SampleCosts:
    tokens_N = np.asarray(tokens, np.int64)
    flops_N = tokens_N * 1000.0 + tokens_N.astype(float) ** 2
    return SampleCosts(tokens_N, flops_N, np.maximum(1, tokens_N // 4), digest)


def by_tokens(bins: int = 4, ranks: int = 2) -> PlanSettings:
    return PlanSettings(BUDGET, global_batch_tokens=BUDGET * bins, planned_ranks=ranks)


def by_samples(samples: int = 6, ranks: int = 2) -> PlanSettings:
    return PlanSettings(BUDGET, global_batch_samples=samples, planned_ranks=ranks)


any_settings = st.one_of(
    st.builds(lambda rounds, ranks: by_tokens(rounds * ranks, ranks), st.integers(1, 3), st.integers(1, 5)),
    st.builds(by_samples, st.integers(1, 20), st.integers(1, 5)),
)
some_tokens = st.lists(st.integers(1, BUDGET), min_size=1, max_size=80)


@given(some_tokens, any_settings, st.integers(0, 9), st.integers(0, 3))
def test_every_sample_is_in_one_bin_and_no_bin_is_over_budget(
    tokens: list[int], settings: PlanSettings, seed: int, epoch: int
) -> None:
    plan = plan_epoch(costs(tokens), seed, epoch, settings)
    batches = list(plan)
    assert sorted(sample for batch in batches for sample in batch.samples) == list(range(len(tokens)))
    assert all(total <= BUDGET for batch in batches for total in batch.tokens)
    for batch in batches:
        assert list(batch.tokens) == [sum(tokens[sample] for sample in members) for members in batch.bins]
        assert batch.target_tokens == sum(max(1, tokens[sample] // 4) for sample in batch.samples)
    if settings.global_batch_samples is not None:
        sizes = [len(batch.samples) for batch in batches]
        assert all(size == settings.global_batch_samples for size in sizes[:-1])
        assert sizes[-1] <= settings.global_batch_samples
    else:
        bins = [len(batch.bins) for batch in batches]
        assert all(count * BUDGET == settings.global_batch_tokens for count in bins[:-1])


@given(some_tokens, any_settings, st.integers(1, 70))
def test_any_world_size_learns_the_same_samples(tokens: list[int], settings: PlanSettings, world_size: int) -> None:
    for batch in plan_epoch(costs(tokens), 0, 0, settings):
        shares = deal(batch, world_size)
        assert len(shares) == world_size
        assert sorted(members for share in shares for members in share) == sorted(batch.bins)
        counts = [len(share) for share in shares]
        assert max(counts) - min(counts) <= 1
        own_flops = {members: flops for members, flops in zip(batch.bins, batch.flops, strict=True)}
        totals = [sum(own_flops[members] for members in share) for share in shares]
        assert totals == pytest.approx(dealt_flops(batch, world_size).tolist())


@given(some_tokens, any_settings)
def test_the_plan_is_a_function_of_its_inputs(tokens: list[int], settings: PlanSettings) -> None:
    digest = plan_epoch(costs(tokens), 1, 2, settings).digest
    assert plan_epoch(costs(tokens), 1, 2, settings).digest == digest
    assert plan_epoch(costs(tokens, "another manifest"), 1, 2, settings).digest != digest


def test_epochs_and_seeds_differ() -> None:
    tokens = np.random.default_rng(0).integers(1, BUDGET, 400)
    plans = [plan_epoch(costs(tokens), seed, epoch, by_tokens()) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    together = [{frozenset(members) for batch in plan for members in batch.bins if len(members) > 1} for plan in plans]
    assert len({plan.digest for plan in plans}) == 3
    # not only another order of the same bins
    for other in together[1:]:
        assert len(together[0] & other) < 0.5 * len(together[0])


@given(some_tokens)
def test_packing_equals_the_plain_search(tokens: list[int]) -> None:
    bin_of, count = best_fit_decreasing(np.array(tokens), BUDGET)
    rooms: list[int] = []
    for size in sorted(tokens, reverse=True):
        fitting = [place for place, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(BUDGET - size)
    loads = np.bincount(bin_of, weights=tokens, minlength=count)
    assert sorted(loads.tolist()) == sorted(BUDGET - room for room in rooms)


def lognormal_tokens(count: int, budget: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(np.log(budget / 5), 1.0, count), 8, budget).astype(np.int64)


def test_bins_are_full_and_ranks_even_where_the_published_sampler_is_neither() -> None:
    tokens = lognormal_tokens(30_000, 8192)
    manifest = costs(tokens)
    plan = plan_epoch(manifest, 0, 0, PlanSettings(8192, global_batch_tokens=8192 * 64, planned_ranks=64))
    assert plan.fill >= 0.98
    assert plan.balance(64) >= 0.97
    steps = length_grouped_batches((-tokens).tolist(), 1, 64, seed=0)
    flops = [[manifest.flops_N[share].sum() for share in shares] for shares in steps]
    published = np.mean([np.mean(step) / max(step) for step in flops])
    assert published < 0.6


def test_published_batches_hold_their_number_of_samples_and_are_spread_over_the_ranks() -> None:
    tokens = lognormal_tokens(3_000, 8192)
    plan = plan_epoch(costs(tokens), 0, 0, PlanSettings(8192, global_batch_samples=128, planned_ranks=64))
    for batch in list(plan)[:-1]:
        assert len(batch.samples) == 128
        assert len(batch.bins) % 64 == 0
    assert plan.balance(64) >= 0.95


def test_a_hundred_thousand_samples_take_seconds() -> None:
    started_s = time.process_time()
    plan = plan_epoch(costs(lognormal_tokens(100_000, 8192)), 0, 0, PlanSettings(8192, global_batch_tokens=8192 * 64))
    assert len(plan) > 100
    assert time.process_time() - started_s < 6


def test_the_cursor_runs_through_the_epochs() -> None:
    manifest = costs(np.random.default_rng(3).integers(1, BUDGET, 50))
    plan = TrainingPlan(manifest, seed=5, epochs=3, settings=by_tokens())
    expected = [batch for epoch in range(3) for batch in plan_epoch(manifest, 5, epoch, by_tokens())]
    assert plan.num_steps == len(expected)
    resumed = TrainingPlan(manifest, seed=5, epochs=3, settings=by_tokens())
    for cursor in range(len(expected) - 1, -1, -1):
        assert resumed[cursor] == expected[cursor]
    with pytest.raises(IndexError, match=f"has {len(expected)} global batches"):
        plan.locate(len(expected))
    assert plan.digest == resumed.digest
    assert plan.digest != TrainingPlan(manifest, seed=5, epochs=2, settings=by_tokens()).digest


def test_published_sampler_keeps_modalities_apart_and_takes_every_sample_once() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 100, 203) * rng.choice([-1, 1], 203)
    steps = length_grouped_batches(lengths.tolist(), 2, 4, seed=3)
    assert sorted(sample for shares in steps for share in shares for sample in share.tolist()) == list(range(203))
    whole = [np.concatenate(shares) for shares in steps if sum(map(len, shares)) == 8]
    mixed = [step for step in whole if len(set(np.sign(lengths[step]).tolist())) > 1]
    # only what is left of both modalities at the end is mixed
    assert len(mixed) <= 1
    assert all(len(share) == 2 for shares in steps[:-2] for share in shares)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_budget": 64}, "one of the two"),
        ({"token_budget": 64, "global_batch_samples": 4, "global_batch_tokens": 64}, "one of the two"),
        ({"token_budget": 64, "global_batch_tokens": 200}, "nearest is 192"),
        ({"token_budget": 64, "global_batch_tokens": 64, "planned_ranks": 2}, "multiple of .* 64 \\* 2"),
        ({"token_budget": 0, "global_batch_samples": 4}, "token_budget=0: must be at least 1"),
        ({"token_budget": 64, "global_batch_samples": 4, "balance": 1.5}, "balance=1.5"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlanSettings(**settings)


def test_an_empty_split_and_a_sample_longer_than_a_bin_are_refused() -> None:
    with pytest.raises(UserError, match="empty split"):
        plan_epoch(costs([]), 0, 0, by_tokens())
    with pytest.raises(UserError, match="sample 1 has 65 tokens, more than token_budget=64"):
        plan_epoch(costs([3, 65]), 0, 0, by_tokens())
