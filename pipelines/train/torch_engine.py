"""The engine in plain torch: everything on every rank, and said plainly.

It is the oracle of :class:`pipelines.train.deepspeed_engine.DeepSpeedEngine`, and fast enough for a laptop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from longvu_model.packing import packed_forward
from pipelines.train import engine_state, staging
from pipelines.train.collate import Bin
from pipelines.train.config import EngineSettings
from pipelines.train.engine import BinResult, Engine, bin_result
from pipelines.train.engine_state import MASTER, Piece
from pipelines.train.families import TrainableModel
from pipelines.train.loss import target_losses
from pipelines.train.optimizer import adamw, fill_moments, set_learning_rates, set_steps
from pipelines.train.stages import Stage


class TorchEngine(Engine):
    """Everything on every rank; gradients summed by one all-reduce per step."""

    def __init__(
        self,
        model: TrainableModel,
        stage: Stage,
        settings: EngineSettings,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, stage, settings, device or torch.device("cpu"))
        self.masters = {name: _master(parameter) for name, parameter in self.trained.items()}
        groups = [
            {"params": [self.masters[name] for name in group["names"]], "lr": group["lr"], "peak_lr": group["lr"]}
            for group in staging.parameter_groups(model, stage)
        ]
        self.optimizer = adamw(groups, stage)
        fill_moments(self.optimizer, self.masters.values())
        self._average()  # begins with the weights as they are
        self._reduced = False

    def backward(self, bins: Sequence[Bin], global_target_tokens: int) -> list[BinResult]:
        results = []
        for one in bins:
            if not one.samples:
                continue
            result, loss = bin_loss(self.model, one, self.settings.chunk_targets)
            if loss.requires_grad:
                (loss / max(1, global_target_tokens)).backward()  # type: ignore[no-untyped-call]
            for name, parameter in self.trained.items():
                _move_gradient(parameter, self.masters[name])
            results.append(result)
        return results

    def update(self, lr_factor: float) -> float:
        self._reduce()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.stage.clip_norm or float("inf"))
        if norm.isfinite():
            set_learning_rates(self.optimizer.param_groups, lr_factor)
            self.optimizer.step()
            self._copy_masters()
            self._average()
        self.discard()
        return norm.item()

    def discard(self) -> None:
        self.optimizer.zero_grad()
        self._reduced = False

    def _forward(self, bins: Sequence[Bin]) -> list[BinResult]:
        return [bin_loss(self.model, one, self.settings.chunk_targets)[0] for one in bins if one.samples]

    def gradients(self) -> dict[str, Tensor]:
        self._reduce()
        return {name: master.grad.clone() for name, master in self.masters.items() if master.grad is not None}

    def _pieces(self) -> list[Piece]:
        """All of every parameter is here, on every rank."""
        pieces = []
        for name, master in self.masters.items():
            moments = {key: self.optimizer.state[master][key].view(-1) for key in engine_state.MOMENTS}
            pieces.append(Piece(name, 0, {MASTER: master.detach().view(-1), **moments}))
        return pieces

    def snapshot(self) -> dict[str, Tensor]:
        return engine_state.snapshot([piece.share(self.rank, self.world_size) for piece in self.pieces()])

    @property
    def steps(self) -> int:
        return int(self.optimizer.state[next(iter(self.masters.values()))]["step"])

    def _loaded(self, steps: int) -> None:
        set_steps(self.optimizer, self.masters.values(), steps)
        self._copy_masters()

    def consolidated_state_dict(self) -> dict[str, Tensor] | None:
        if self.rank:
            return None
        return {name: tensor.detach().cpu().clone() for name, tensor in staging.merged_state_dict(self.model).items()}

    def _reduce(self) -> None:
        """Sum the gradients of all ranks, once; parameters that no bin used get zeros, as their moments must decay."""
        if self._reduced:
            return
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        if self.world_size > 1:
            gradients = [master.grad for master in self.masters.values() if master.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))
        self._reduced = True

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, parameter in self.trained.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])


def bin_loss(model: TrainableModel, one: Bin, chunk_targets: int) -> tuple[BinResult, Tensor]:
    """A bin's sum of token losses, and what it is made of."""
    hidden_SC, row = packed_forward(model.model, one.inputs)
    losses_N = target_losses(hidden_SC, row.targets_S, model.lm_head, chunk_targets)
    return bin_result(one, row, losses_N), losses_N.sum()


def _master(parameter: torch.nn.Parameter) -> Tensor:
    """The float32 weights that the optimiser updates: the parameter itself if it is float32."""
    return parameter if parameter.dtype == torch.float32 else parameter.detach().float().requires_grad_()


def _move_gradient(parameter: torch.nn.Parameter, master: Tensor) -> None:
    """Add a half-precision gradient to the float32 one, so that many micro-batches do not round each other away."""
    if master is parameter or parameter.grad is None:
        return
    gradient = parameter.grad.float()
    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
    parameter.grad = None
