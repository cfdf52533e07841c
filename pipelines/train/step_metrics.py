"""What is measured in a step, and what the workers' measurements amount to."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.train.engine import SampleLoss

MODALITIES = ("text", "image", "video")


@dataclass(frozen=True)
class LocalStep:
    """One worker's share of a step, as numbers that travel.

    Attributes:
        loss_sum: of all its targets.
        step_s, stall_s: seconds since the step before, and those in which data was waited for.
        tokens: in its rows.
        unreadable: samples left out.
        written: whether its shard of the checkpoint in progress is written.
        committed: the newest checkpoint that counts, as far as it knows.
        notice: 0, or why it wants to end, see :data:`pipelines.train.loop.NOTICES`.
        overdue: whether a checkpoint should begin by its clock.
        memory_bytes: the most it has used so far, of the GPU if it has one.
        text_loss ... video_targets: losses and targets by modality.
    """

    loss_sum: float
    step_s: float
    stall_s: float
    tokens: float
    unreadable: float
    written: float
    committed: float
    notice: float
    overdue: float
    memory_bytes: float
    text_loss: float
    image_loss: float
    video_loss: float
    text_targets: float
    image_targets: float
    video_targets: float


class GlobalStep:
    """All workers' shares; ``values_RN`` has a row per worker, as :meth:`World.exchange` gives them."""

    def __init__(self, values_RN: NDArray[np.float64]) -> None:
        self._columns = {field.name: values_RN[:, place] for place, field in enumerate(fields(LocalStep))}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """One value of all workers."""
        return self._columns[name]

    def total(self, name: str) -> float:
        return float(self._columns[name].sum())

    def largest(self, name: str) -> float:
        return float(self._columns[name].max())


def by_modality(samples: Sequence[SampleLoss]) -> list[float]:
    """Sums of losses, then numbers of targets, of the :data:`MODALITIES`."""
    losses = [sum(s.loss_sum for s in samples if s.modality == kind) for kind in MODALITIES]
    return losses + [float(sum(s.num_targets for s in samples if s.modality == kind)) for kind in MODALITIES]


def local_values(step: LocalStep) -> list[float]:
    return [float(value) for value in astuple(step)]


def record(step: GlobalStep, flops: float, peak_tflops: float | None) -> dict[str, float]:
    """The metrics of a step that follow from its measurements.

    Args:
        flops: that the samples of the batch need: what is useful of the work.
        peak_tflops: of one worker's device.
    """
    seconds, workers = max(step.largest("step_s"), 1e-9), len(step["step_s"])
    metrics = {
        "tokens": step.total("tokens"),
        "tokens_per_s": step.total("tokens") / seconds,
        "useful_tflops_per_worker": flops / seconds / workers / 1e12,
        "data_stall_share": step.largest("stall_s") / seconds,
        "memory_gib": step.largest("memory_bytes") / 2**30,
        "unreadable": step.total("unreadable"),
        "seconds": seconds,
    }
    if peak_tflops is not None:
        metrics["mfu"] = metrics["useful_tflops_per_worker"] / peak_tflops
    for kind in MODALITIES:
        if targets := step.total(f"{kind}_targets"):
            metrics[f"loss/{kind}"] = step.total(f"{kind}_loss") / targets
    return metrics


def memory_bytes(device: torch.device) -> float:
    """The most memory used so far: of the GPU, or of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
