"""What a training run will need on N GPUs, told without one: memory, operations, input and output, hours, money.

Samples come from the run's manifest and its plan; what a row costs is in :mod:`pipelines.train.costs` and
:mod:`pipelines.train.memory`. The time assumes
a share of the GPUs' peak (``utilization``), which is the one figure here that only a measurement can give
(``tests/benchmarks/gpu/train.py``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import UserError
from pipelines.train import costs
from pipelines.train.config import EngineSettings
from pipelines.train.families import family_of
from pipelines.train.families.work import RowWork
from pipelines.train.memory import Memory, parameter_counts, step_memory, trained_count
from pipelines.train.stages import Stage

if TYPE_CHECKING:
    from pipelines.train.run import Prepared

MOST_ROWS = 512
"""Rows that are looked at, evenly over the first epoch."""

FEATURE_BYTES = 2  # stored as float16 or bfloat16


@dataclass(frozen=True)
class Gpu:
    """A device by its data sheet."""

    name: str
    memory_bytes: float
    peak_flops: float
    """Dense bfloat16 operations per second."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 40e9, 312e12),
        Gpu("A100-80GB", 80e9, 312e12),
        Gpu("H100", 80e9, 989e12),
        Gpu("H200", 141e9, 989e12),
    )
}


@dataclass(frozen=True)
class Estimate:
    """The figures; ``str()`` gives them as a page.

    Attributes:
        memory: of the row that needs most, on one GPU.
        parameters: weights by part, and those that learn.
        step_flops: operations of a mean step on all GPUs, with what is recomputed.
        feature_bytes: read from the feature store in a mean step, by all GPUs.
        traffic_bytes: that one GPU sends in a step.
        checkpoint_bytes: of one checkpoint.
        hours: of the whole run.
    """

    gpus: int
    gpu: Gpu
    utilization: float
    price_per_gpu_hour: float
    parameters: dict[str, int]
    trained: int
    memory: Memory
    num_steps: int
    rows_per_step: float
    tokens_per_step: float
    step_flops: float
    feature_bytes: float
    traffic_bytes: float
    checkpoint_bytes: float

    @property
    def hours(self) -> float:
        flops_per_s = self.gpus * self.busy * self.gpu.peak_flops * self.utilization
        return self.num_steps * self.step_flops / flops_per_s / 3600

    @property
    def busy(self) -> float:
        """Share of the GPUs that have a row to work on; rows are dealt in rounds."""
        rows = max(1.0, self.rows_per_step)
        return rows / (self.gpus * math.ceil(rows / self.gpus))

    @property
    def fits(self) -> list[str]:
        """GPUs whose memory holds the fullest moment, with a tenth to spare for the allocator."""
        return [gpu.name for gpu in GPUS.values() if self.memory.peak <= 0.9 * gpu.memory_bytes]

    def __str__(self) -> str:
        memory, parts = self.memory, ", ".join(f"{part} {_count(n)}" for part, n in self.parameters.items())
        work = max(memory.work, memory.optimizer_work - memory.activations)
        steps = f"{self.num_steps} steps of {self.rows_per_step:.1f} rows and {_count(self.tokens_per_step)} tokens"
        step_s = 3600 * self.hours / max(1, self.num_steps)
        cost = self.hours * self.gpus * self.price_per_gpu_hour
        return "\n".join(
            [
                f"weights: {_count(sum(self.parameters.values()))} ({parts}); {_count(self.trained)} learn",
                f"memory per GPU: {_bytes(memory.peak)} at most (weights {_bytes(memory.weights)}, "
                f"optimiser {_bytes(memory.optimizer)}, gradients {_bytes(memory.gradients)}, "
                f"activations {_bytes(memory.activations)}, passing {_bytes(work)}); "
                f"fits on {', '.join(self.fits) or 'none of ' + ', '.join(GPUS)}",
                f"steps: {steps}; {self.step_flops:.2e} FLOPs each, {self.num_steps * self.step_flops:.2e} in all",
                f"I/O per step: {_bytes(self.feature_bytes)} of features read, {_bytes(self.traffic_bytes)} sent by "
                f"each GPU; a checkpoint is {_bytes(self.checkpoint_bytes)}",
                f"time on {self.gpus} x {self.gpu.name}: {step_s:.2f} s per step, {_hours(self.hours)}, "
                f"if {self.utilization:.0%} of the peak are reached while there is a row to work on, as there is "
                f"{self.busy:.0%} of the time",
                f"cost: {_hours(self.gpus * self.hours)} of a GPU, {cost:.3g} at {self.price_per_gpu_hour:g} an hour",
            ]
        )


def estimate(
    prepared: Prepared,
    gpus: int,
    *,
    gpu: str = "H100",
    utilization: float = 0.4,
    price_per_gpu_hour: float = 3.0,
) -> Estimate:
    """What a run will need.

    Args:
        prepared: from :func:`pipelines.train.run.prepare`.
        gpus: devices, one worker each.
        gpu: a name of :data:`GPUS`.
        utilization: share of the peak that is reached, an assumption.
        price_per_gpu_hour: in any currency, an assumption.

    Raises:
        UserError: no such GPU.
    """
    if gpu not in GPUS:
        raise UserError(f"gpu={gpu}: use one of {', '.join(GPUS)}")
    config, plan = prepared.run.config, prepared.plan
    epoch = plan.epoch(0)
    works = _sample_works(prepared)
    picked = np.unique(np.linspace(0, len(epoch) - 1, min(len(epoch), MOST_ROWS)).astype(int)).tolist()
    rows, num_batches = [], 0
    for step in picked:
        rows += [_row(works, members) for members in epoch[step].bins]
        num_batches += 1
    return estimate_rows(
        prepared.family.config,
        config.stage,
        config.engine,
        rows,
        gpus=gpus,
        num_steps=plan.num_steps,
        rows_per_step=len(rows) / num_batches,
        gpu=GPUS[gpu],
        utilization=utilization,
        price_per_gpu_hour=price_per_gpu_hour,
    )


def estimate_rows(
    model_config: Any,
    stage: Stage,
    settings: EngineSettings,
    rows: Sequence[RowWork],
    *,
    gpus: int,
    num_steps: int,
    rows_per_step: float,
    gpu: Gpu,
    utilization: float,
    price_per_gpu_hour: float,
) -> Estimate:
    """The same from rows that stand for all others."""
    counts = parameter_counts(model_config)
    trained = trained_count(model_config, stage, counts)
    whole = sum(counts.values())
    memory = max(
        (
            step_memory(model_config, stage, settings, row, workers=gpus, accumulates=rows_per_step > gpus)
            for row in _largest(rows)
        ),
        key=lambda found: found.peak,
    )
    flops = float(np.mean([costs.step_flops(model_config, stage, settings, row) for row in rows])) * rows_per_step
    stored = float(np.mean([row.frames - row.online_frames for row in rows])) * rows_per_step
    size, rounds = settings.dtype.itemsize, max(1.0, rows_per_step / gpus)
    zero = settings.zero_stage if settings.kind == "deepspeed" else 0
    once = size * (gpus - 1) / gpus  # a reduce-scatter or an all-gather, per weight
    traffic = once * trained * (2 if zero < 2 else 1 + rounds)
    if zero == 3:  # gathered for forward and backward of every row
        traffic = once * (2 * rounds * (whole - counts["towers"]) + rounds * trained)
    kinds = 3 + (stage.ema_decay is not None)
    return Estimate(
        gpus=gpus,
        gpu=gpu,
        utilization=utilization,
        price_per_gpu_hour=price_per_gpu_hour,
        parameters=counts,
        trained=trained,
        memory=memory,
        num_steps=num_steps,
        rows_per_step=rows_per_step,
        tokens_per_step=float(np.mean([sum(row.lengths) for row in rows])) * rows_per_step,
        step_flops=flops,
        feature_bytes=stored * family_of(model_config).frame_bytes(model_config, FEATURE_BYTES),
        traffic_bytes=traffic,
        checkpoint_bytes=4.0 * kinds * trained,
    )


def _sample_works(prepared: Prepared) -> list[RowWork]:
    """Every sample of the manifest, at most."""
    table, config = prepared.manifest.table, prepared.family.config
    names = ("num_text_tokens", "num_visual_tokens", "num_target_tokens", "num_frames")
    columns = [table[name].to_pylist() for name in names]
    works = []
    for text, visual, targets, frames, media in zip(*columns, table["media"].to_pylist(), strict=True):
        online = frames if any(medium["video_id"] is None for medium in media) else 0
        works.append(family_of(config).row_work(config, text, visual, targets, frames, online))
    return works


def _row(works: Sequence[RowWork], members: Sequence[int]) -> RowWork:
    chosen = [works[index] for index in members]
    sums = {
        field.name: sum(getattr(work, field.name) for work in chosen)
        for field in dataclasses.fields(RowWork)
        if field.name != "lengths"
    }
    return RowWork([length for work in chosen for length in work.lengths], **sums)


def _largest(rows: Sequence[RowWork]) -> list[RowWork]:
    """Rows of which one needs the most memory: the longest, that with most cells, that with most targets."""
    return [max(rows, key=key) for key in (lambda r: r.tokens, lambda r: r.cells, lambda r: r.targets)]


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
