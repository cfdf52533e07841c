"""Means with honest error bars, and paired comparisons.

Questions about one video share its difficulty, so a standard error that takes them for independent is too small. Here
whole clusters (videos) are the units: the cluster-robust ("sandwich") estimate, and resampling of clusters.

Shapes: Q questions, G clusters, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.intervals import Z95

Floats = NDArray[np.float64]

# Resamples are drawn in blocks, so that memory stays small at ten thousand clusters.
_BLOCK = 512


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    ``se`` is its standard error clustered by video, None below two clusters; ``n`` counts questions.
    """

    value: float | None
    se: float | None
    n: int
    clusters: int

    @property
    def ci95(self) -> tuple[float, float] | None:
        """value ± 1.96 se; of a share near 0 or 1 see :func:`pipelines.intervals.share_interval` instead."""
        if self.value is None or self.se is None:
            return None
        return self.value - Z95 * self.se, self.value + Z95 * self.se

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": self.ci95}


@dataclass(frozen=True)
class Paired:
    """The difference of two runs on the same questions, second minus first.

    Attributes:
        difference: with its clustered standard error.
        bootstrap_ci95: percentiles 2.5 and 97.5 of the difference over resampled clusters.
        bootstrap_p: two-sided: how often resamples fall on the other side of zero, doubled.
        first_only, second_only: questions that only one run has right; None where scores are not right or wrong.
        mcnemar_p: exact McNemar test on these two; None likewise. It takes questions for independent.
    """

    difference: Estimate
    bootstrap_ci95: tuple[float, float] | None
    bootstrap_p: float | None
    first_only: int | None
    second_only: int | None
    mcnemar_p: float | None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference.as_json()}


def estimate(scores_Q: Sequence[float], clusters_Q: Sequence[str], groups_Q: Sequence[str] | None = None) -> Estimate:
    """Mean and clustered standard error.

    The variance is G/(G-1) times the sum over clusters of their squared summed residuals, over n².

    Args:
        groups_Q: if given, the value is the plain mean of the groups' means, so a question of a small group weighs
            more; the same residuals, weighted, give the standard error.
    """
    if not len(scores_Q):
        return Estimate(None, None, 0, 0)
    scores = np.asarray(scores_Q, np.float64)
    weights, residuals = _weighted(scores, groups_Q)
    clusters = np.unique(np.asarray(clusters_Q), return_inverse=True)[1]
    num = int(clusters.max()) + 1
    sums = np.bincount(clusters, weights * residuals, num)
    se = math.sqrt(num / (num - 1) * float(sums @ sums)) if num > 1 else None
    return Estimate(float(weights @ scores), se, len(scores), num)


def paired(
    first_Q: Sequence[float],
    second_Q: Sequence[float],
    clusters_Q: Sequence[str],
    groups_Q: Sequence[str] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compare two runs question by question.

    Args:
        groups_Q: as for :func:`estimate`.
        resamples: of the cluster bootstrap.
    """
    first, second = np.asarray(first_Q, np.float64), np.asarray(second_Q, np.float64)
    found = estimate((second - first).tolist(), clusters_Q, groups_Q)
    interval = p_value = None
    if found.clusters > 1:
        draws = bootstrap(second - first, clusters_Q, groups_Q, resamples, seed)
        low, high = np.quantile(draws, [0.025, 0.975])
        interval = float(low), float(high)
        beyond = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
        # Never 0: so many resamples cannot show less than this.
        p_value = min(1.0, 2 * max(beyond, 1 / resamples))
    if not set(np.unique(np.concatenate([first, second])).tolist()) <= {0.0, 1.0}:
        return Paired(found, interval, p_value, None, None, None)
    only = int((first > second).sum()), int((second > first).sum())
    return Paired(found, interval, p_value, *only, mcnemar(*only))


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value: either run is as likely to be the one that is right."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    total = first_only + second_only
    return 1.0 if total == 0 else float(binomtest(first_only, total).pvalue)


def bootstrap(
    scores_Q: Floats, clusters_Q: Sequence[str], groups_Q: Sequence[str] | None, resamples: int, seed: int
) -> Floats:
    """The mean (B,) in each resample of as many clusters as there are, drawn with replacement.

    With groups: the mean of the means of those groups that the resample has.
    """
    clusters = np.unique(np.asarray(clusters_Q), return_inverse=True)[1]
    groups = np.zeros(len(scores_Q), int) if groups_Q is None else np.unique(groups_Q, return_inverse=True)[1]
    shape = int(clusters.max()) + 1, int(groups.max()) + 1
    cells = clusters * shape[1] + groups
    sums = np.bincount(cells, scores_Q, shape[0] * shape[1]).reshape(shape)
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        drawn = rng.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), min(_BLOCK, resamples - start))
        drawn_counts = drawn @ counts
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.nanmean(drawn @ sums / drawn_counts, axis=1))
    return np.concatenate(means)


def _weighted(scores_Q: Floats, groups_Q: Sequence[str] | None) -> tuple[Floats, Floats]:
    """What each question weighs in the value, and how far it is from the mean of its group."""
    groups = np.zeros(len(scores_Q), int) if groups_Q is None else np.unique(groups_Q, return_inverse=True)[1]
    counts = np.bincount(groups)
    means = np.bincount(groups, scores_Q) / counts
    return 1 / (len(counts) * counts[groups]), scores_Q - means[groups]
