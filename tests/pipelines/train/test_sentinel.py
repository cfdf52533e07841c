"""What counts as out of the ordinary, and who is named for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.train.config import WatchConfig
from pipelines.train.engine import SampleLoss
from pipelines.train.sentinel import Sentinel, robust_score

WATCH = WatchConfig(non_finite="halt", spike="rewind", threshold=8, window=40, warmup=20)


def falling_losses(count: int, seed: int = 0) -> list[float]:
    """As in training: falling, with noise that grows with the loss."""
    noise = np.random.default_rng(seed).lognormal(0, 0.15, count)
    return [(0.5 + 3 * math.exp(-step / 30)) * factor for step, factor in enumerate(noise.tolist())]


def sample(name: str, mean_loss: float, num_targets: int = 4) -> SampleLoss:
    return SampleLoss(0, name, "video", mean_loss * num_targets, num_targets)


@pytest.mark.parametrize("seed", range(5))
def test_losses_of_ordinary_training_pass(seed: int) -> None:
    sentinel = Sentinel(WATCH)
    assert not [event for step, loss in enumerate(falling_losses(400, seed)) if (event := sentinel.judge(step, loss))]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_no_number_is_refused_from_the_first_step_on(loss: float) -> None:
    event = Sentinel(WATCH).judge(0, loss)
    assert event is not None and event.policy == "halt" and event.reason == f"a loss of {loss}"
    assert Sentinel(WATCH).judge_gradient(3, loss) is not None
    assert Sentinel(WATCH).judge_gradient(3, 1e6) is None


def test_a_spike_is_refused_once_there_is_something_to_compare_with_and_leaves_no_trace() -> None:
    early = Sentinel(WATCH)
    assert early.judge(0, 1.0) is None and early.judge(1, 50.0) is None

    sentinel = Sentinel(WATCH, falling_losses(60)[20:])
    before = list(sentinel.losses)
    event = sentinel.judge(60, 12.0)
    assert event is not None and event.policy == "rewind" and "standard deviations above" in event.reason
    assert list(sentinel.losses) == before
    assert sentinel.judge(61, before[-1]) is None and sentinel.losses[-1] == before[-1]


def test_equal_losses_do_not_make_the_next_one_a_spike() -> None:
    sentinel = Sentinel(WATCH, [0.5] * 40)
    assert sentinel.judge(40, 0.55) is None
    assert sentinel.judge(41, 2.0) is not None
    assert robust_score(1.0, []) == 0.0


def test_the_rare_mistakes_of_a_model_that_has_learned_are_no_spikes() -> None:
    sentinel = Sentinel(WATCH, [0.017, 0.018, 0.016] * 10)
    assert robust_score(0.63, sentinel.losses) > 60
    assert sentinel.judge(40, 0.63) is None
    assert sentinel.judge(41, 0.017 + WATCH.least_rise + 0.01) is not None
    assert Sentinel(WATCH.changed(least_rise=0.1), [0.017, 0.018, 0.016] * 10).judge(40, 0.63) is not None


def test_the_samples_to_blame_are_named() -> None:
    sentinel = Sentinel(WATCH, [1.0, 1.1, 0.9] * 10)
    ordinary = [sample(f"fine-{number}", 1.0 + 0.1 * number) for number in range(6)]
    names = lambda samples: [one.sample_id for one in sentinel.responsible(samples)]  # noqa: E731
    assert names([*ordinary, sample("nan", math.nan), sample("high", 40.0)]) == ["nan"]
    assert names([*ordinary, sample("high", 40.0), sample("higher", 60.0)]) == ["higher", "high"]
    assert names(ordinary) == ["fine-5"]
    assert names([]) == []
