"""Intervals of shares: against scipy, at the ends of the scale, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest  # type: ignore[import-untyped]

from pipelines.evaluate.statistics import estimate
from pipelines.intervals import share_interval, shown_interval, shown_share, wilson95


@given(st.integers(1, 400), st.data())
def test_wilson_is_scipys(trials: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, trials))
    theirs = binomtest(right, trials).proportion_ci(0.95, method="wilson")
    assert wilson95(right / trials, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_videos_are_the_trials_where_all_answers_are_alike() -> None:
    every = estimate([1.0] * 40, [f"video {place // 4}" for place in range(40)]).as_json()
    assert every["se"] == 0 and share_interval(every) == pytest.approx(wilson95(1, 10))
    none = estimate([0.0] * 40, [f"video {place // 4}" for place in range(40)]).as_json()
    low, high = share_interval(none) or (1, 0)
    assert low == 0 and high == pytest.approx(1 - wilson95(1, 10)[0])


def test_questions_about_one_video_count_less_than_as_many_videos() -> None:
    scores = [float(place % 10 < 7) for place in range(100)]
    apart = share_interval(estimate(scores, [str(place) for place in range(100)]).as_json())
    together = share_interval(estimate(sorted(scores), [str(place // 10) for place in range(100)]).as_json())
    assert apart == pytest.approx(wilson95(0.7, 100), abs=2e-3)
    assert apart and together and together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_videos_that_balance_each_other_prove_no_more_than_their_questions() -> None:
    balanced = estimate([1.0, 0.0] * 20, [str(place // 2) for place in range(40)]).as_json()
    assert balanced["se"] == 0 and share_interval(balanced) == pytest.approx(wilson95(0.5, 40))


def test_interval_holds_the_truth_near_the_end_of_the_scale_where_the_standard_error_does_not() -> None:
    rng = np.random.default_rng(0)
    clusters = [str(place // 3) for place in range(90)]
    held = {"wilson": 0, "standard error": 0}
    for _ in range(400):
        found = estimate((rng.random(30) < 0.97).astype(float).repeat(3).tolist(), clusters)
        for name, interval in (("wilson", share_interval(found.as_json())), ("standard error", found.ci95)):
            assert interval is not None
            held[name] += interval[0] <= 0.97 <= interval[1]
    assert held["wilson"] >= 0.93 * 400 and held["standard error"] < 0.8 * 400


def test_a_share_is_written_with_its_standard_error_or_with_its_interval() -> None:
    usual = {"value": 0.6123, "se": 0.031, "n": 300, "clusters": 100}
    assert shown_share(usual) == "61.2 ± 3.1 %"
    every = {"value": 1.0, "se": 0.0, "n": 20, "clusters": 10}
    assert shown_share(every) == "100.0 % (95 %: 72.2 to 100.0 %)"
    one_video = {"value": 0.5, "se": None, "n": 2, "clusters": 1}
    assert shown_share(one_video) == "50.0 %" and shown_interval(one_video) == "one video: no interval"
    assert shown_share({"value": None, "se": None, "n": 0, "clusters": 0}) == "–"
