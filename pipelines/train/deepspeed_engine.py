"""DeepSpeed ZeRO 0 to 3 behind the engines' interface.

ZeRO's collectives run in the order in which modules are called and gradients appear, and hang, or add up the wrong
numbers, when that order differs between ranks. It would here: one rank's bin has videos and the next one's is plain
text. So everything whose course depends on data is fenced into two regions, the visual path with the embeddings in
front of the decoder layers and the head behind them. A region is called exactly once per bin; ZeRO-3 gathers its
weights at once and not module by module; and a gate at its entry hands over the gradients of all its parameters
together, in one order, zeros for those that were not used. Ranks with fewer bins than others compute fillers.

Towers that do not learn stay outside: every rank has them, ZeRO-3 does not spread them.

Traps of DeepSpeed 0.19, all handled in this file: on a CPU its shared-memory collectives are compiled at first use
(85 s) and are switched off; a leaf module reduces its gradients in a full backward hook, which fires too early unless
an input needs a gradient; of a tensor in two leaf modules (a tied head) the later one registered answers for it; on a
CPU it asks for the accelerator when it is imported.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.func import functional_call

from longvu_model.packing import PackedRow, SampleInputs, embed_samples, run_backbone
from longvu_model.vision_language import EmbeddingsModel
from pipelines.train import engine_state, staging
from pipelines.train.collate import Bin, filler
from pipelines.train.config import EngineSettings
from pipelines.train.engine import BinResult, Engine, bin_result
from pipelines.train.engine_state import MASTER, Piece
from pipelines.train.families import TrainableModel
from pipelines.train.loss import target_losses
from pipelines.train.optimizer import adamw, fill_moments, set_learning_rates, set_steps
from pipelines.train.stages import Stage


class DeepSpeedEngine(Engine):
    """ZeRO stage ``settings.zero_stage`` over the ranks of the default process group.

    Raises:
        RuntimeError: there is no process group; make one first, of a single rank if need be.
    """

    def __init__(
        self,
        model: TrainableModel,
        stage: Stage,
        settings: EngineSettings,
        device: torch.device | None = None,
    ) -> None:
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeed needs torch.distributed: call init_process_group first")
        super().__init__(model, stage, settings, device or torch.device("cpu"))
        self._deepspeed = import_deepspeed(self.device)
        self.module = FencedModel(model, settings.chunk_targets)
        if settings.zero_stage == 3:
            self._deepspeed.utils.set_z3_leaf_modules(self.module, [Region])
        groups = [{**group, "peak_lr": group["lr"]} for group in staging.parameter_groups(model, stage)]
        self._engine, self._optimizer, _, _ = self._deepspeed.initialize(
            model=self.module,
            optimizer=adamw(groups, stage),
            config=configuration(stage, settings),
            dist_init_required=False,
        )
        # The optimiser over this rank's flat float32 weights, below DeepSpeed's own.
        self._inner = getattr(self._optimizer, "optimizer", self._optimizer)
        # In float32 stage 0 has no optimiser of DeepSpeed's: every rank has everything, and nobody clips.
        self._replicated = self._inner is self._optimizer
        fill_moments(self._inner, self._flat())
        self._average()  # begins with the weights as they are

    def backward(self, bins: Sequence[Bin], global_target_tokens: int) -> list[BinResult]:
        results = []
        scale = self.world_size / max(1, global_target_tokens)  # DeepSpeed averages over ranks
        rounds = self._rounds(bins)
        for number, one in enumerate(rounds, 1):
            self._engine.set_gradient_accumulation_boundary(number == len(rounds))
            losses_N = self._losses(one)
            self._engine.backward(losses_N.sum() * scale, scale_wrt_gas=False)
            if one.samples:
                results.append(self.module.result(one, losses_N))
        return results

    def update(self, lr_factor: float) -> float:
        set_learning_rates(self._inner.param_groups, lr_factor)
        if self._replicated:
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.stage.clip_norm or float("inf"))
            (self._engine.step if norm.isfinite() else self.discard)()
        else:
            self._engine.step()  # which leaves out a gradient that is no number
            norm = self._engine.get_global_grad_norm()
        if math.isfinite(norm):
            self._average()
        return float(norm)

    def discard(self) -> None:
        """Everything of a step but the optimiser's part."""
        self._inner.step = lambda *_, **__: None
        self._engine.step()
        del self._inner.step

    def _forward(self, bins: Sequence[Bin]) -> list[BinResult]:
        results = []
        for one in self._rounds(bins):
            losses_N = self._losses(one)
            if one.samples:
                results.append(self.module.result(one, losses_N))
        return results

    def gradients(self) -> dict[str, Tensor]:
        whole = self._deepspeed.utils.safe_get_full_grad
        return {name: whole(parameter).detach().float().clone() for name, parameter in self.trained.items()}

    def _pieces(self) -> list[Piece]:
        pieces = [self._piece(name, parameter) for name, parameter in self.trained.items()]
        return [piece for piece in pieces if piece is not None]

    def snapshot(self) -> dict[str, Tensor]:
        pieces = self.pieces()
        if self._replicated:
            pieces = [piece.share(self.rank, self.world_size) for piece in pieces]
        return engine_state.snapshot(pieces)

    @property
    def steps(self) -> int:
        return int(self._inner.state[self._flat()[0]]["step"])

    def consolidated_state_dict(self) -> dict[str, Tensor] | None:
        spread = self.settings.zero_stage == 3
        with self._deepspeed.zero.GatheredParameters(list(self.module.parameters()), enabled=spread):
            if self.rank:
                return None
            return {k: tensor.detach().cpu().clone() for k, tensor in staging.merged_state_dict(self.model).items()}

    def _losses(self, one: Bin) -> Tensor:
        return self._engine(samples=one.inputs or [filler()])

    def _rounds(self, bins: Sequence[Bin]) -> list[Bin]:
        """As many bins as the rank with the most has, at least one: empty ones fill up."""
        count = torch.tensor([max(1, len(bins))], device=self.device)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return [*bins, *[Bin([], [])] * (int(count) - len(bins))]

    def _flat(self) -> list[Tensor]:
        """The tensors of the inner optimiser."""
        if self.settings.zero_stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        return [tensor for group in self._inner.param_groups for tensor in group["params"]]

    def _piece(self, name: str, parameter: nn.Parameter) -> Piece | None:
        """What this rank's optimiser has of a parameter; ``None`` for nothing."""
        if self.settings.zero_stage == 3:
            group, offset, padded = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
            flat, start = self._optimizer.fp32_partitioned_groups_flat[group], padded * self.rank
            numel = min(padded, parameter.ds_numel - start)  # type: ignore[attr-defined]
        elif self._replicated:
            flat, offset, start, numel = parameter.detach().view(-1), 0, 0, parameter.numel()
            moments = {kind: self._inner.state[parameter][kind].view(-1) for kind in engine_state.MOMENTS}
            return Piece(name, start, {MASTER: flat, **moments})
        elif parameter._hp_mapping is None:  # type: ignore[attr-defined]
            return None
        else:
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            flat = self._inner.param_groups[mapping.param_group_index]["params"][0]
            offset, start = mapping.hp_fragment_address.start, mapping.lp_fragment_address.start
            numel = mapping.lp_fragment_address.numel
        if numel <= 0:
            return None
        moments = {kind: self._inner.state[flat][kind].narrow(0, offset, numel) for kind in engine_state.MOMENTS}
        return Piece(name, start, {MASTER: flat.detach().narrow(0, offset, numel), **moments})

    @torch.no_grad()
    def _loaded(self, steps: int) -> None:
        set_steps(self._inner, self._flat(), steps)
        if self._replicated:
            return
        if self.settings.zero_stage < 3:
            for parameter in self.trained.values():
                parameter.copy_(self._deepspeed.utils.safe_get_full_fp32_param(parameter))
            return
        for piece in self.pieces():
            self.trained[piece.name].ds_tensor[: piece.numel].copy_(piece.tensors[MASTER])  # type: ignore[attr-defined]
        persistent = self._optimizer.persistent_parameters
        if persistent:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)


class FencedModel(nn.Module):
    """Token losses of packed samples, with everything that depends on data inside two :class:`Region` modules.

    It holds the parts of ``model`` that DeepSpeed is to see; ``model`` itself is only called.
    """

    def __init__(self, model: TrainableModel, chunk_targets: int) -> None:
        super().__init__()
        core = model.model
        # The front comes last: of a tied head, ZeRO-3 then reduces the gradient where it is complete.
        self.head = Region(model.lm_head)
        self.layers = core.language_model.layers
        self.norm = core.language_model.norm
        self.front = Region(Visual(core))
        self.chunk_targets = chunk_targets
        self._language_model = (core.language_model,)  # in a tuple, for a module would be registered
        # Made here: ZeRO-3 takes a look at a weight outside its module for a use of it.
        self._entry = torch.zeros(1, device=model.lm_head.weight.device, dtype=model.lm_head.weight.dtype)
        self.row: PackedRow

    def forward(self, samples: Sequence[SampleInputs]) -> Tensor:
        """Loss of every target, float32 (N,); the packed row stays in ``row``, as hooks want tensors only."""

        def embed(entry: Tensor, visual: Callable[..., Any]) -> Tensor:
            self.row = visual(samples)
            return self.row.embeds_SC + entry

        def losses(hidden_SC: Tensor, head: Callable[..., Any]) -> Tensor:
            return target_losses(hidden_SC, self.row.targets_S, head, self.chunk_targets)

        # Where nothing in front of the layers learns, the hooks of the regions need a gradient to pass all the same.
        embeds_SC = self.front(self._entry.clone().requires_grad_(), run=embed)
        hidden_SC = run_backbone(self._language_model[0], dataclasses.replace(self.row, embeds_SC=embeds_SC))
        return self.head(hidden_SC, run=losses)

    def result(self, one: Bin, losses_N: Tensor) -> BinResult:
        """What the latest forward pass says of a bin."""
        return bin_result(one, self.row, losses_N)


class Visual(nn.Module):
    """The visual path and the embeddings; towers only if they learn."""

    def __init__(self, core: EmbeddingsModel) -> None:
        super().__init__()
        for name, part in core.named_children():  # type: ignore[attr-defined]  # it is a module, too
            learns = any(parameter.requires_grad for parameter in part.parameters())
            if part is not core.language_model and (learns or name not in ("tower", "towers")):
                self.add_module(name, part)
        self.embed_tokens = core.get_input_embeddings()
        self._core = (core,)

    def forward(self, samples: Sequence[SampleInputs]) -> PackedRow:
        return embed_samples(self._core[0], samples)


class Region(nn.Module):
    """A module that may be called any number of times, in any order, within one call of the region."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, entry: Tensor, run: Callable[[Tensor, Callable[..., Any]], Tensor]) -> Tensor:
        """``run(entry, call)``, where ``call`` calls the inner module; the result must depend on ``entry``."""
        trained = {name: parameter for name, parameter in self.inner.named_parameters() if parameter.requires_grad}
        entry, *gated = Gate.apply(entry, *trained.values())
        state = dict(zip(trained, gated, strict=True))
        return run(entry, lambda *arguments: functional_call(self.inner, state, arguments))


class Gate(torch.autograd.Function):
    """Identity on several tensors; the gradients leave together, zeros where there are none."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed for a device; on a CPU without its shared-memory collectives."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # DeepSpeed 0.19 calls what torch 2.13 renames, at every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def configuration(stage: Stage, settings: EngineSettings) -> dict[str, Any]:
    """What DeepSpeed is told: the JSON of its own documentation."""
    bfloat16 = settings.precision == "bfloat16"
    return {
        # Micro-batches differ in number from step to step, so the boundary is set by hand.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": stage.clip_norm if settings.zero_stage or bfloat16 else 0.0,
        "steps_per_print": 1 << 62,
        "bf16": {"enabled": bfloat16},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if bfloat16 else {}),
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "reduce_bucket_size": settings.bucket_elements,
            "allgather_bucket_size": settings.bucket_elements,
            "stage3_prefetch_bucket_size": settings.bucket_elements,
        },
    }
