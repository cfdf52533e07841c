"""Means, error bars and paired tests against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.statistics import bootstrap, estimate, mcnemar, paired


def clustered_scores(seed: int, clusters: int, most: int = 12) -> tuple[list[float], list[str], list[str]]:
    """Right and wrong answers of which those about one video are alike, with a group each."""
    rng = np.random.default_rng(seed)
    scores, names, groups = [], [], []
    for cluster in range(clusters):
        chance = rng.beta(1.2, 0.8)
        for _ in range(rng.integers(1, most)):
            scores.append(float(rng.random() < chance))
            names.append(f"video {cluster}")
            groups.append(f"group {rng.integers(3)}")
    return scores, names, groups


def resampled(scores: list[float], clusters: list[str], groups: list[str] | None, draws: int) -> list[float]:
    """The mean of each resample of whole clusters, one after the other."""
    rng = np.random.default_rng(1)
    names = sorted(set(clusters))
    members = {name: [place for place, cluster in enumerate(clusters) if cluster == name] for name in names}
    means = []
    for _ in range(draws):
        places = [place for drawn in rng.integers(len(names), size=len(names)) for place in members[names[drawn]]]
        if groups is None:
            means.append(float(np.mean([scores[place] for place in places])))
        else:
            of_groups = [
                np.mean([scores[place] for place in places if groups[place] == group])
                for group in sorted({groups[place] for place in places})
            ]
            means.append(float(np.mean(of_groups)))
    return means


@pytest.mark.parametrize("grouped", [False, True])
def test_standard_error_is_that_of_a_brute_force_bootstrap(grouped: bool) -> None:
    scores, clusters, groups = clustered_scores(seed=3, clusters=150)
    chosen = groups if grouped else None
    found = estimate(scores, clusters, chosen)
    means = resampled(scores, clusters, chosen, draws=4000)
    assert found.se == pytest.approx(np.std(means, ddof=1), rel=0.05)
    naive = math.sqrt(np.var(scores, ddof=1) / len(scores))
    assert found.se is not None and found.se > 1.3 * naive, "the clusters of this test matter"


def test_vectorised_bootstrap_is_the_brute_force_one() -> None:
    scores, clusters, groups = clustered_scores(seed=5, clusters=60)
    for chosen in (None, groups):
        fast = bootstrap(np.asarray(scores), clusters, chosen, 4000, seed=0)
        slow = resampled(scores, clusters, chosen, 4000)
        assert np.mean(fast) == pytest.approx(np.mean(slow), abs=0.004)
        assert np.std(fast) == pytest.approx(np.std(slow), rel=0.05)
        for share in (0.025, 0.5, 0.975):
            assert np.quantile(fast, share) == pytest.approx(np.quantile(slow, share), abs=0.012)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=30))
def test_clusters_of_one_give_the_usual_standard_error(scores: list[float]) -> None:
    found = estimate(scores, [str(place) for place in range(len(scores))])
    assert found.value == pytest.approx(np.mean(scores), abs=1e-12)
    assert found.se == pytest.approx(np.std(scores, ddof=1) / math.sqrt(len(scores)), abs=1e-9)


def test_headline_over_groups_weighs_groups_alike() -> None:
    found = estimate([1, 1, 1, 0], ["a", "b", "c", "d"], ["many", "many", "many", "few"])
    assert found.value == 0.5 and found.n == 4 and found.clusters == 4


def test_nothing_and_one_cluster_have_no_error_bar() -> None:
    assert estimate([], []).value is None and estimate([], []).ci95 is None
    one = estimate([1, 0], ["a", "a"])
    assert one.value == 0.5 and one.se is None and one.ci95 is None


def brute_force_mcnemar(first_only: int, second_only: int) -> float:
    """All coin tosses that are as unlikely as this one or more so."""
    total = first_only + second_only
    chances = [math.comb(total, heads) / 2**total for heads in range(total + 1)]
    return min(1.0, sum(chance for chance in chances if chance <= chances[first_only] * (1 + 1e-9)))


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemar_counts_coin_tosses(first_only: int, second_only: int) -> None:
    assert mcnemar(first_only, second_only) == pytest.approx(brute_force_mcnemar(first_only, second_only))


def test_paired_comparison_sees_what_is_there() -> None:
    scores, clusters, _ = clustered_scores(seed=7, clusters=80)
    better = [1.0 if place % 4 == 0 else score for place, score in enumerate(scores)]
    found = paired(scores, better, clusters)
    assert found.difference.value == pytest.approx(np.mean(better) - np.mean(scores))
    assert found.first_only == 0 and found.second_only == sum(b > a for a, b in zip(scores, better, strict=True))
    low, high = found.bootstrap_ci95 or (0, 0)
    assert 0 < low < (found.difference.value or 0) < high
    assert (found.bootstrap_p or 1) < 0.01 and (found.mcnemar_p or 1) < 0.01
    same = paired(scores, scores, clusters)
    assert same.difference.value == 0 and same.bootstrap_p == 1 and same.mcnemar_p == 1
    assert paired(better, scores, clusters).difference.value == pytest.approx(-(found.difference.value or 0))


def test_equal_models_are_seldom_told_apart() -> None:
    """The bootstrap's p-value is at most 0.05 about one time in twenty."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        difficulty = rng.random(40).repeat(5)
        clusters = [str(place // 5) for place in range(200)]
        first, second = ((rng.random(200) < difficulty).astype(float).tolist() for _ in range(2))
        found.append(paired(first, second, clusters, resamples=400).bootstrap_p or 0)
    assert 0.01 <= np.mean(np.asarray(found) <= 0.05) <= 0.11


def test_ratings_have_no_mcnemar() -> None:
    found = paired([3.0, 10.0, 7.0], [5.0, 10.0, 1.0], ["a", "b", "c"])
    assert found.mcnemar_p is None and found.first_only is None and found.bootstrap_ci95 is not None
