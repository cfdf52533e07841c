"""What turns bins into optimiser steps: the interface of all engines and their results.

An engine owns the model's weights while it trains. Every rank gives it its own bins and the number of targets in the
whole global batch; gradients are summed over ranks and divided by that number, so they do not depend on how the batch
was dealt. Ranks may have different numbers of bins, none included.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from longvu_model.packing import PackedRow, use_packed_attention
from pipelines.train import engine_state
from pipelines.train.collate import Bin
from pipelines.train.config import EngineSettings
from pipelines.train.engine_state import AVERAGE, MASTER, Piece
from pipelines.train.families import TrainableModel
from pipelines.train.stages import Stage


@dataclass(frozen=True)
class BinResult:
    """Losses of one bin, per sample in its order, before they are read from the device."""

    bin: Bin
    num_tokens: int
    loss_sums: Tensor
    """float32 (samples,), sum of the token losses of each sample."""
    num_targets: list[int]


@dataclass(frozen=True)
class SampleLoss:
    """What a sample contributed."""

    index: int
    sample_id: str
    modality: str
    loss_sum: float
    num_targets: int


@dataclass(frozen=True)
class StepResult:
    """One optimiser step.

    Attributes:
        loss: mean token loss of the global batch, the same on every rank.
        grad_norm: norm of the gradient before clipping, the same on every rank.
        num_tokens: tokens in this rank's rows.
        samples: this rank's samples.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    samples: Sequence[SampleLoss]


class Engine(ABC):
    """Weights, gradients and optimiser of one rank.

    A step is :meth:`backward`, then :meth:`update` or :meth:`discard`; all ranks take part in each of them.

    Args:
        model: made ready by :func:`pipelines.train.staging.apply`; moved to ``device`` and ``settings.precision``.
        stage: learning rates and optimiser.
    """

    def __init__(self, model: TrainableModel, stage: Stage, settings: EngineSettings, device: torch.device) -> None:
        self.model, self.stage, self.settings, self.device = model, stage, settings, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        for parameter in model.parameters():  # buffers, the rotary frequencies among them, stay float32
            parameter.data = parameter.data.to(device, settings.dtype)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        use_packed_attention(model, settings.attention)
        model.train()
        if settings.gradient_checkpointing:
            # the first name is that of transformers 5.23, the second that of 5.17
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        self._averages: dict[str, Tensor] = {}
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    @abstractmethod
    def backward(self, bins: Sequence[Bin], global_target_tokens: int) -> list[BinResult]:
        """Add the gradient of this rank's share of a global batch.

        Args:
            bins: this rank's micro-batches.
            global_target_tokens: targets of the global batch over all ranks, what the sum of losses is divided by.
        """

    @abstractmethod
    def update(self, lr_factor: float) -> float:
        """One optimiser step with the gradient so far, at ``lr_factor`` times the peak rates; the gradient's norm. A
        gradient that is no number changes nothing."""

    @abstractmethod
    def discard(self) -> None:
        """Forget the gradient so far: a batch that is to be left out."""

    @torch.no_grad()
    def forward(self, bins: Sequence[Bin]) -> list[BinResult]:
        """Losses without gradients and without dropout; ranks may have different numbers of bins."""
        self.model.eval()
        try:
            return self._forward(bins)
        finally:
            self.model.train()

    @abstractmethod
    def _forward(self, bins: Sequence[Bin]) -> list[BinResult]: ...

    @abstractmethod
    def gradients(self) -> dict[str, Tensor]:
        """Whole gradients by parameter name, after :meth:`backward`; the same on every rank. For tests and reports."""

    @abstractmethod
    def _pieces(self) -> list[Piece]:
        """What this rank holds of the trained weights and their moments, in place."""

    @abstractmethod
    def _loaded(self, steps: int) -> None:
        """The pieces were written to: bring the model's weights and the optimiser's count of steps in line."""

    @abstractmethod
    def consolidated_state_dict(self) -> dict[str, Tensor] | None:
        """For tests. Rank 0: the whole model's weights on the CPU, adapters merged, in ``precision``; others: None."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimiser steps done."""

    def step(self, bins: Sequence[Bin], global_target_tokens: int, lr_factor: float = 1.0) -> StepResult:
        """:meth:`backward` and :meth:`update`."""
        results = self.backward(bins, global_target_tokens)
        return self.result(results, global_target_tokens, self.update(lr_factor))

    def result(self, results: Sequence[BinResult], global_target_tokens: int, grad_norm: float) -> StepResult:
        """What a step's bins amount to; a collective, for the loss is that of all ranks."""
        samples = sample_losses(results)
        total = torch.tensor([sum(sample.loss_sum for sample in samples)], dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(total)
        loss = total.item() / max(1, global_target_tokens)
        return StepResult(loss, grad_norm, sum(result.num_tokens for result in results), samples)

    def pieces(self) -> list[Piece]:
        """What this rank holds of the trained weights, their moments and their average over steps, in place."""
        pieces = self._pieces()
        if self.stage.ema_decay is None:
            return pieces
        for piece in pieces:
            if piece.name not in self._averages:
                self._averages[piece.name] = piece.tensors[MASTER].clone()
        return [
            dataclasses.replace(piece, tensors={**piece.tensors, AVERAGE: self._averages[piece.name]})
            for piece in pieces
        ]

    @torch.no_grad()
    def _average(self) -> None:
        """Let the average follow the weights after a step."""
        if self.stage.ema_decay is not None:
            for piece in self.pieces():
                piece.tensors[AVERAGE].lerp_(piece.tensors[MASTER], 1 - self.stage.ema_decay)

    def snapshot(self) -> dict[str, Tensor]:
        """This rank's part of a checkpoint, copied to the CPU: from here on training may go on."""
        return engine_state.snapshot(self.pieces())

    def save(self, folder: str | Path) -> None:
        """Write this rank's shard into a folder that exists; it is complete when every rank has."""
        engine_state.write_shard(folder, self.snapshot(), self.rank, self.world_size, self.steps, self.shapes())

    def load(self, folder: str | Path) -> None:
        """Go on from a checkpoint that any engine wrote with any number of workers.

        Raises:
            CheckpointMismatch: shards are missing, or the parameters are others; nothing was changed.
        """
        self._loaded(engine_state.read_pieces(folder, self.pieces(), self.shapes()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trained parameter."""
        return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in self.trained.items()}


def bin_result(one: Bin, row: PackedRow, losses_N: Tensor) -> BinResult:
    """Losses of all targets of a row -> their sums for each sample."""
    counts = [int((targets >= 0).sum()) for targets in row.targets_S.split(row.sample_lengths)]
    sums = [losses.sum() for losses in losses_N.detach().split(counts)]
    return BinResult(one, sum(row.lengths), torch.stack(sums), counts)


def sample_losses(results: Sequence[BinResult]) -> list[SampleLoss]:
    """The losses of all samples, read from the device."""
    losses = []
    for result in results:
        sums = zip(result.bin.samples, result.loss_sums.tolist(), result.num_targets, strict=True)
        losses += [SampleLoss(s.index, s.sample_id, s.modality, total, count) for s, total, count in sums]
    return losses
