"""Held-out samples, looked at while training: their loss, and how many answers the model would give word for word.

An answer counts as right when the most likely token is the next one of the answer at every place: then greedy decoding
gives exactly this answer. Both come out of one forward pass, through any engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from longvu_model.config import IGNORE_INDEX
from pipelines.train.collate import Bin, collate
from pipelines.train.engine import Engine, SampleLoss, sample_losses
from pipelines.train.plan import PlanSettings, TrainingPlan
from pipelines.train.prepared import PreparedSample, Unreadable
from pipelines.train.reader import Reader
from pipelines.train.world import World

_BATCH_SAMPLES = 64


class Evaluator:
    """Evaluates an engine on the samples of a reader's manifest.

    Args:
        token_budget: tokens of a row.
    """

    def __init__(self, reader: Reader, engine: Engine, world: World, token_budget: int):
        settings = PlanSettings(token_budget, global_batch_samples=_BATCH_SAMPLES, planned_ranks=world.size)
        self._plan = TrainingPlan(reader.manifest.costs, 0, 1, settings)
        self._reader, self._engine, self._world = reader, engine, world

    def __call__(self) -> tuple[dict[str, float], list[Unreadable]]:
        """``heldout/loss`` per token and ``heldout/exact_match`` per sample, not numbers if there is none; and the
        samples that this rank could not read, which count in neither. A collective."""
        loss = targets = right = count = 0.0
        unreadable: list[Unreadable] = []
        self._engine.model.eval()
        for step in self._reader.steps(self._plan, self._world.rank, self._world.size):
            bins = [collate(members, self._engine.device, self._engine.settings.dtype) for members in step.bins]
            for sample, exact in self._judged(bins):
                loss, targets = loss + sample.loss_sum, targets + sample.num_targets
                right, count = right + exact, count + 1
            unreadable += step.unreadable
        self._engine.model.train()
        loss, targets, right, count = self._world.exchange([loss, targets, right, count]).sum(0).tolist()
        mean_loss, share = (
            total / number if number else math.nan for total, number in ((loss, targets), (right, count))
        )
        return {"heldout/loss": mean_loss, "heldout/exact_match": share}, unreadable

    def _judged(self, bins: Sequence[Bin]) -> list[tuple[SampleLoss, bool]]:
        with guesses(self._engine) as guessed:
            losses = sample_losses(self._engine.forward(bins))
        samples = [sample for one in bins for sample in one.samples]
        targets = [wanted(sample) for sample in samples]
        found = torch.cat(guessed).cpu() if guessed else torch.empty(0, dtype=torch.int64)
        assert len(found) == sum(sample.num_targets for sample in samples), "a guess for every target"
        by_sample = found.split([sample.num_targets for sample in samples])
        # of several sequences the last one is what is answered with
        parts = [part[-len(target) :] for part, target in zip(by_sample, targets, strict=True)]
        return [(loss, torch.equal(*pair)) for loss, pair in zip(losses, zip(parts, targets, strict=True), strict=True)]


@contextmanager
def guesses(engine: Engine) -> Iterator[list[Tensor]]:
    """The most likely id at every target of the forward passes in the block, in their order."""
    found: list[Tensor] = []
    hook = engine.model.lm_head.register_forward_hook(lambda _, __, logits: found.append(logits.argmax(-1)))
    try:
        yield found
    finally:
        hook.remove()


def wanted(sample: PreparedSample) -> Tensor:
    """The ids of a sample's targets, of one sequence."""
    return sample.labels[1:][sample.labels[1:] != IGNORE_INDEX]
