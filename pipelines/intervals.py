"""The 95 % interval of a share whose questions come in clusters, and how a share is written.

A standard error says nothing where all answers are right, or all wrong: it is 0 however few the questions are. The
score interval of Wilson (1927, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22, 209-212) stays honest there. Questions about one video are no independent trials,
so it is taken at the effective number of trials p (1 - p) / se², the simple random sample of the same standard error
(Kish 1965, "Survey Sampling"); where p is 0 or 1 that is not defined, and the videos are the trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Z95 = 1.959963984540054
# Below this a standard error is 0 but for rounding.
_NO_SPREAD = 1e-9


def wilson95(share: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of ``share``, 0 to 1, over ``trials``, which need not be whole."""
    spread = Z95**2 / trials
    centre = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def share_interval(estimate: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a share of right answers; None where there is no share, or one video.

    Args:
        estimate: ``value``, ``se`` clustered by video, ``n`` questions, ``clusters`` videos.
    """
    value, se = estimate["value"], estimate["se"]
    if value is None or se is None:
        return None
    variance = value * (1 - value)
    if variance < _NO_SPREAD:
        return wilson95(value, estimate["clusters"])
    # Fewer than the questions: videos that balance each other by chance prove nothing.
    trials = estimate["n"] if se < _NO_SPREAD else min(estimate["n"], variance / se**2)
    return wilson95(value, max(1.0, trials))


def shown_share(estimate: Mapping[str, Any]) -> str:
    """``61.2 ± 3.1 %``, one standard error; where that is 0, ``100.0 % (95 %: 72.2 to 100.0 %)``."""
    value = estimate["value"]
    if value is None:
        return "–"
    se = estimate["se"]
    shown = f"{100 * value:.1f}"
    if se is None:
        return f"{shown} %"
    if se >= _NO_SPREAD:
        return f"{shown} ± {100 * se:.1f} %"
    return f"{shown} % ({shown_interval(estimate)})"


def shown_interval(estimate: Mapping[str, Any]) -> str:
    """``95 %: 72.2 to 100.0 %``."""
    interval = share_interval(estimate)
    if interval is None:
        return "one video: no interval"
    return f"95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
