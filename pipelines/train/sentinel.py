"""The watch over the loss: what is out of the ordinary, whose fault it is, and what is done about it.

A loss is judged before the weights are changed by it. It is out of the ordinary when it is not a number, or so far
above the losses before that chance does not explain it: its distance from their median, in units of their median
distance (as standard deviations), exceeds the threshold, and it is not small by itself either: to a model that has
nearly learned its data, every mistake it still makes is many deviations away. Losses that were refused do not count
among those before.

* ``skip``: the batch changes nothing, training goes on behind it.
* ``rewind``: a loss that rises may come from what was learned before it; the weights go back to the last checkpoint
  that gave a loss in order, and training goes on behind the batch. What lies between the two is not learned in this
  run. If the next loss is no better, they go back further, as far as ``checkpoint.keep_last`` reaches.
* ``halt``: the run ends and says what it saw.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.train.config import Policy, WatchConfig

if TYPE_CHECKING:
    from pipelines.train.engine import SampleLoss

_MAD_TO_STD = 1.4826
_LEAST_SPREAD = 0.02  # of the median: the losses of a model that has learned all there is hardly differ
_MOST_NAMED = 8


@dataclass(frozen=True)
class Event:
    """Something out of the ordinary.

    Attributes:
        cursor: global batch.
        reason: what was seen, in words.
        policy: what is to be done.
    """

    cursor: int
    reason: str
    policy: Policy


class Sentinel:
    """Judges losses; what it remembers is part of a checkpoint.

    Args:
        losses: those that the next one is compared with.
    """

    def __init__(self, config: WatchConfig, losses: Sequence[float] = ()) -> None:
        self._config = config
        self.losses: deque[float] = deque(losses, maxlen=config.window)

    def judge(self, cursor: int, loss: float) -> Event | None:
        """Whether the loss of a batch is out of the ordinary; one that is not is remembered."""
        if not math.isfinite(loss):
            return Event(cursor, f"a loss of {loss}", self._config.non_finite)
        if len(self.losses) >= self._config.warmup and self._spikes(loss):
            median, score = statistics.median(self.losses), robust_score(loss, self.losses)
            reason = f"a loss of {loss:.4g}, {score:.0f} standard deviations above the {median:.4g} before it"
            return Event(cursor, reason, self._config.spike)
        self.losses.append(loss)
        return None

    def judge_gradient(self, cursor: int, grad_norm: float) -> Event | None:
        """The same for the norm of the gradient, which is only expected to be a number."""
        if math.isfinite(grad_norm):
            return None
        return Event(cursor, f"a gradient of norm {grad_norm}", self._config.non_finite)

    def responsible(self, samples: Iterable[SampleLoss]) -> list[SampleLoss]:
        """Of the samples of a refused batch those to blame, the worst first: without a number for a loss, else those
        whose own loss is far above the batches before, else the one with the largest."""
        known = list(samples)
        broken = [sample for sample in known if not math.isfinite(sample.loss_sum)]
        if broken:
            return broken[:_MOST_NAMED]
        ranked = sorted(known, key=mean_loss, reverse=True)
        far = [sample for sample in ranked if self._spikes(mean_loss(sample))]
        return (far or ranked[:1])[:_MOST_NAMED]

    def _spikes(self, loss: float) -> bool:
        rise = loss - (statistics.median(self.losses) if self.losses else loss)
        return rise >= self._config.least_rise and robust_score(loss, self.losses) > self._config.threshold


def mean_loss(sample: SampleLoss) -> float:
    """Loss per target."""
    return sample.loss_sum / max(1, sample.num_targets)


def robust_score(value: float, others: Sequence[float] | deque[float]) -> float:
    """Distance above the median of ``others`` in standard deviations, these estimated by the median distance."""
    if not others:
        return 0.0
    median = statistics.median(others)
    spread = _MAD_TO_STD * statistics.median(abs(other - median) for other in others)
    return (value - median) / max(spread, _LEAST_SPREAD * abs(median), 1e-12)
