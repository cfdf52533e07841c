"""Which samples are learned in which step, decided before any worker sees one.

An epoch is a sequence of *global batches*, one optimiser step each. A global batch is a set of *bins*: samples packed
to a token budget, run as one row. Batches depend on the manifest, the seed and the settings and on nothing else, so
the position in training is one integer, and any number of workers learns the same samples in the same steps;
:func:`deal` gives each its share.

How a batch is made:

* By tokens (``global_batch_tokens``): samples are packed best fit decreasing within shuffled windows, which fills bins
  to nearly the budget, and bins are gathered to batches.
* By samples (``global_batch_samples``, as published): samples are gathered to batches, and each batch is spread over as
  few bins as its tokens need, rounded up to whole rounds of ranks.

A step takes as long as its slowest rank, so what is gathered should be alike in cost. Things are sorted by predicted
FLOPs within windows of a few batches; the windows are the narrowest that reach the balance asked for, because the
wider they are, the more alike the samples of a step become.

Shapes: N samples, B bins, S steps, R ranks, K rounds of dealing.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.train.bins import best_fit_decreasing, cheapest_fit, deal_ranks, evenness, rank_sums

Bin = tuple[int, ...]
"""Samples of one row, as rows of the manifest."""

_PACKING_WINDOW = 1 << 16
_WIDEST_WINDOW = 64


@dataclass(frozen=True)
class PlanSettings:
    """What decides the batches, beside the manifest and the seed. Give one of the two batch sizes.

    Args:
        token_budget: tokens of a bin at most.
        global_batch_samples: samples per step.
        global_batch_tokens: tokens per step; a multiple of ``token_budget * planned_ranks``.
        planned_ranks: ranks whose shares are to cost the same; training may use any other number.
        balance: mean over maximum of the ranks' costs to aim at, averaged over steps.

    Raises:
        UserError: a value that cannot be used.
    """

    token_budget: int
    global_batch_samples: int | None = None
    global_batch_tokens: int | None = None
    planned_ranks: int = 1
    balance: float = 0.98

    def __post_init__(self) -> None:
        if (self.global_batch_samples is None) == (self.global_batch_tokens is None):
            raise UserError("give either global_batch_samples (as published) or global_batch_tokens, one of the two")
        for name in ("token_budget", "global_batch_samples", "global_batch_tokens", "planned_ranks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        if not 0 <= self.balance <= 1:
            raise UserError(f"balance={self.balance}: must be from 0 to 1")
        share = self.token_budget * self.planned_ranks
        if self.global_batch_tokens is not None and self.global_batch_tokens % share:
            nearest = max(1, round(self.global_batch_tokens / share)) * share
            raise UserError(
                f"global_batch_tokens={self.global_batch_tokens}: must be a multiple of token_budget * planned_ranks = "
                f"{self.token_budget} * {self.planned_ranks}, so that every rank has as many bins; nearest is {nearest}"
            )


@dataclass(frozen=True)
class SampleCosts:
    """What the planner knows of the samples of a manifest; arrays (N,)."""

    tokens_N: NDArray[np.int64]
    flops_N: NDArray[np.float64]
    targets_N: NDArray[np.int64]
    digest: str
    """Of the manifest; part of the plan's."""


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one optimiser step; ``flops`` and ``tokens`` are those of each bin."""

    bins: tuple[Bin, ...]
    flops: tuple[float, ...]
    tokens: tuple[int, ...]
    target_tokens: int

    @property
    def samples(self) -> list[int]:
        return [sample for members in self.bins for sample in members]


@dataclass(frozen=True)
class EpochPlan(Sequence[GlobalBatch]):
    """All global batches of one epoch; every sample is in exactly one bin.

    Args:
        samples_N: samples, bin after bin.
        bin_ends_B: where each bin ends among them.
        batch_ends_S: where each batch ends among the bins.
    """

    samples_N: NDArray[np.int64]
    bin_ends_B: NDArray[np.int64]
    batch_ends_S: NDArray[np.int64]
    costs: SampleCosts = field(repr=False)
    settings: PlanSettings

    def __len__(self) -> int:
        return len(self.batch_ends_S)

    def __getitem__(self, step: int) -> GlobalBatch:  # type: ignore[override]
        step = range(len(self))[step]
        bins = slice(self.batch_ends_S[step - 1] if step else 0, self.batch_ends_S[step])
        ends = self.bin_ends_B[bins].tolist()
        starts = [int(self.bin_ends_B[bins.start - 1]) if bins.start else 0, *ends[:-1]]
        members = [self.samples_N[start:end] for start, end in zip(starts, ends, strict=True)]
        return GlobalBatch(
            bins=tuple(tuple(samples.tolist()) for samples in members),
            flops=tuple(float(self.costs.flops_N[samples].sum()) for samples in members),
            tokens=tuple(int(self.costs.tokens_N[samples].sum()) for samples in members),
            target_tokens=int(self.costs.targets_N[self.samples_N[starts[0] : ends[-1]]].sum()),
        )

    @functools.cached_property
    def digest(self) -> str:
        """blake2b over the manifest's digest, the settings and the batches, 32 hex digits."""
        facts = [self.costs.digest, asdict(self.settings)]
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
        for array in (self.samples_N, self.bin_ends_B, self.batch_ends_S):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def fill(self) -> float:
        """Share of the bins' token budgets that is used."""
        return float(self.costs.tokens_N.sum()) / (len(self.bin_ends_B) * self.settings.token_budget)

    def balance(self, world_size: int) -> float:
        """Mean over maximum of the ranks' predicted FLOPs, averaged over the steps."""
        return float(np.mean([evenness(dealt_flops(batch, world_size)) for batch in self]))


def plan_epoch(costs: SampleCosts, seed: int, epoch: int, settings: PlanSettings) -> EpochPlan:
    """The batches of an epoch; another seed or epoch gives others.

    Raises:
        UserError: no samples, or one that no bin can hold.
    """
    tokens_N = costs.tokens_N
    if not len(tokens_N):
        raise UserError("an empty split: no sample is left to learn from; see the quarantine report")
    longest = int(tokens_N.argmax())
    if tokens_N[longest] > settings.token_budget:
        raise UserError(
            f"sample {longest} has {tokens_N[longest]} tokens, more than token_budget={settings.token_budget}; "
            f"raise token_budget, or quarantine long samples"
        )
    rng = np.random.default_rng([seed, epoch])
    shuffled_N = rng.permutation(len(tokens_N))
    if settings.global_batch_samples is not None:
        samples_N, batch_ends_S = _gather(
            shuffled_N, costs.flops_N[shuffled_N], settings.global_batch_samples, settings, rng
        )
        return _spread(samples_N, batch_ends_S, costs, settings)
    assert settings.global_batch_tokens is not None
    samples_N, bin_ends_B = _pack(shuffled_N, tokens_N, settings.token_budget)
    bins_per_batch = settings.global_batch_tokens // settings.token_budget
    bin_flops_B = np.add.reduceat(costs.flops_N[samples_N], np.concatenate([[0], bin_ends_B[:-1]]))
    shuffled_B = rng.permutation(len(bin_ends_B))
    bins_B, batch_ends_S = _gather(shuffled_B, bin_flops_B[shuffled_B], bins_per_batch, settings, rng)
    order_N, ends_B = _reorder_bins(bin_ends_B, bins_B)
    return EpochPlan(samples_N[order_N], ends_B, batch_ends_S, costs, settings)


def deal(batch: GlobalBatch, world_size: int) -> list[list[Bin]]:
    """The bins of each rank: numbers that differ by at most one, costs as even as that allows.

    The dearest bins are dealt first, one to each rank in rounds; within a round the dearest goes to the rank that has
    done least. So the bins that ranks run at the same time are alike too, which matters where every bin ends with an
    exchange between ranks.
    """
    order = np.argsort(-np.array(batch.flops), kind="stable")
    rank_of = deal_ranks(np.array(batch.flops)[order][None], world_size)[0]
    shares: list[list[Bin]] = [[] for _ in range(world_size)]
    for position, rank in zip(order.tolist(), rank_of.tolist(), strict=True):
        shares[rank].append(batch.bins[position])
    return shares


def dealt_flops(batch: GlobalBatch, world_size: int) -> NDArray[np.float64]:
    """Predicted FLOPs of each rank's share (R,)."""
    flops_B = -np.sort(-np.array(batch.flops))
    return rank_sums(deal_ranks(flops_B[None], world_size), flops_B[None], world_size)[0]


class TrainingPlan:
    """The epochs of a training run one after another, addressed by the cursor: global batches since the start.

    Epochs are planned when they are first needed; two are held.
    """

    def __init__(self, costs: SampleCosts, seed: int, epochs: int, settings: PlanSettings) -> None:
        self.costs, self.seed, self.epochs, self.settings = costs, seed, epochs, settings
        self._ends: list[int] = []
        self._plan = functools.lru_cache(2)(functools.partial(plan_epoch, costs, seed, settings=settings))

    def epoch(self, number: int) -> EpochPlan:
        """The plan of one epoch, from 0."""
        return self._plan(number)

    @functools.cached_property
    def num_steps(self) -> int:
        """Global batches of the whole run."""
        return self._end(self.epochs - 1)

    @functools.cached_property
    def digest(self) -> str:
        """Of the first epoch's batches, the seed and the number of epochs: what a checkpoint must agree with."""
        facts = f"{self.epoch(0).digest} {self.seed} {self.epochs}"
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def locate(self, cursor: int) -> tuple[int, int]:
        """Epoch and step within it of a cursor.

        Raises:
            IndexError: the run has fewer steps.
        """
        while not self._ends or self._ends[-1] <= cursor:
            if len(self._ends) == self.epochs:
                raise IndexError(f"cursor {cursor}: the plan has {self.num_steps} global batches")
            self._end(len(self._ends))
        epoch = bisect.bisect_right(self._ends, cursor)
        return epoch, cursor - (self._ends[epoch - 1] if epoch else 0)

    def __getitem__(self, cursor: int) -> GlobalBatch:
        epoch, step = self.locate(cursor)
        return self.epoch(epoch)[step]

    def _end(self, epoch: int) -> int:
        while len(self._ends) <= epoch:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self.epoch(len(self._ends))))
        return self._ends[epoch]


def _pack(shuffled_N: NDArray[np.int64], tokens_N: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], ...]:
    """Samples bin after bin, and where each bin ends; windows keep the bins of different epochs different."""
    bins, first = [], 0
    for start in range(0, len(shuffled_N), _PACKING_WINDOW):
        bin_of, count = best_fit_decreasing(tokens_N[shuffled_N[start : start + _PACKING_WINDOW]], budget)
        bins.append(bin_of + first)
        first += count
    bin_of_N = np.concatenate(bins)
    return shuffled_N[np.argsort(bin_of_N, kind="stable")], np.cumsum(np.bincount(bin_of_N))


def _gather(
    items_N: NDArray[np.int64],
    flops_N: NDArray[np.float64],
    per_batch: int,
    settings: PlanSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffled items in batches of ``per_batch`` that deal evenly, and where each batch ends; the last may be smaller.

    Items are sorted by cost within windows of 1, 2, 4 ... batches; the first width that reaches the balance is taken,
    or else the best. Then the batches are shuffled.
    """
    whole = len(items_N) // per_batch
    best, best_balance = np.arange(whole * per_batch), -1.0
    width = 1
    while whole:
        order = _sorted_windows(flops_N[: whole * per_batch], width * per_batch)
        flops_SB = -np.sort(-flops_N[order].reshape(whole, per_batch), axis=1)
        ranks_SB = deal_ranks(flops_SB, settings.planned_ranks)
        balance = float(np.mean(evenness(rank_sums(ranks_SB, flops_SB, settings.planned_ranks))))
        if balance > best_balance:
            best, best_balance = order, balance
        if balance >= settings.balance or width >= min(whole, _WIDEST_WINDOW):
            break
        width *= 2
    batches_SB = best.reshape(whole, per_batch)[rng.permutation(whole)]
    order_N = np.concatenate([batches_SB.reshape(-1), np.arange(whole * per_batch, len(items_N))])
    ends_S = np.arange(1, whole + 1) * per_batch
    return items_N[order_N], ends_S if whole * per_batch == len(items_N) else np.append(ends_S, len(items_N))


def _sorted_windows(flops_N: NDArray[np.float64], window: int) -> NDArray[np.int64]:
    """Positions sorted by cost within windows of ``window`` items."""
    return np.lexsort((np.arange(len(flops_N)), flops_N, np.arange(len(flops_N)) // window))


def _spread(
    samples_N: NDArray[np.int64], batch_ends_S: NDArray[np.int64], costs: SampleCosts, settings: PlanSettings
) -> EpochPlan:
    """Packs batches of samples, each into as few rounds of ``planned_ranks`` bins as its tokens need."""
    members: list[int] = []
    bin_ends: list[int] = []
    batch_ends: list[int] = []
    start = 0
    for end in batch_ends_S.tolist():
        batch = samples_N[start:end]
        for packed in _even_bins(batch, costs, settings):
            members += packed
            bin_ends.append(len(members))
        batch_ends.append(len(bin_ends))
        start = end
    return EpochPlan(np.array(members), np.array(bin_ends), np.array(batch_ends), costs, settings)


def _even_bins(batch: NDArray[np.int64], costs: SampleCosts, settings: PlanSettings) -> list[list[int]]:
    """Samples to bins of about the same cost: the dearest sample first, into the cheapest bin with room for it."""
    order = batch[np.argsort(-costs.flops_N[batch], kind="stable")]
    samples = list(zip(order.tolist(), costs.tokens_N[order].tolist(), costs.flops_N[order].tolist(), strict=True))
    ranks = settings.planned_ranks
    count = -(-int(costs.tokens_N[batch].sum()) // (settings.token_budget * ranks)) * ranks
    while True:
        packed = cheapest_fit(samples, min(count, len(samples)), settings.token_budget)
        if packed is not None:
            return packed
        count += ranks


def _reorder_bins(bin_ends_B: NDArray[np.int64], order_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Bins in another order: where each of the samples was, and where the bins end now."""
    sizes_B = np.diff(bin_ends_B, prepend=0)[order_B]
    ends_B = np.cumsum(sizes_B)
    first_B = (bin_ends_B - np.diff(bin_ends_B, prepend=0))[order_B]
    return np.arange(ends_B[-1]) + np.repeat(first_B - (ends_B - sizes_B), sizes_B), ends_B
