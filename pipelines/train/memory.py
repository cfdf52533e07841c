"""Memory of a training step on one device, by arithmetic: weights, optimiser, gradients, activations.

Activations are the tensors that autograd keeps, layer by layer, of the library's Qwen2 and Llama and of the family's
visual path; the tests hold the sum against the live tensors of a step.

Symbols as in :mod:`pipelines.train.costs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.train.config import EngineSettings
from pipelines.train.costs import adapter_weights, head_width, widths
from pipelines.train.families import family_of
from pipelines.train.families.work import RowWork
from pipelines.train.stages import Stage, part_of

_MOMENT_BYTES = 8  # two float32 averages per trained weight
_COPY_BYTES = 4  # a float32 weight, or its average over steps


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: of all parts, in the precision of training.
        optimizer: moments, float32 weights where training is in half precision, and their average if one is kept.
        gradients: of all trained weights, whole while a backward pass runs.
        activations: what the forward pass of one row keeps, inputs included.
        work: the largest passing tensors beside them.
    """

    weights: float
    optimizer: float
    gradients: float
    activations: float
    work: float
    optimizer_work: float = field(default=0.0)

    @property
    def peak(self) -> float:
        """The fullest moment: in the middle of a backward pass, or while the optimiser steps."""
        return self.weights + self.optimizer + self.gradients + max(self.activations + self.work, self.optimizer_work)


def parameter_counts(config: Any) -> dict[str, int]:
    """Weights of every part, from a model without memory."""
    with torch.device("meta"):
        model = family_of(config).model_class(config)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def trained_count(config: Any, stage: Stage, counts: dict[str, int]) -> int:
    """Weights that learn, adapters included."""
    trained = sum(count for part, count in counts.items() if part not in stage.frozen)
    if stage.lora is not None:
        trained += adapter_weights(config, stage)
        trained -= counts["language_model"] if "language_model" not in stage.frozen else 0
    return trained


def step_memory(
    config: Any,
    stage: Stage,
    settings: EngineSettings,
    work: RowWork,
    *,
    workers: int = 1,
    accumulates: bool = True,
    device: str = "cuda",
) -> Memory:
    """Bytes on one of ``workers`` devices while it trains on rows like ``work``.

    Args:
        accumulates: more than one row per step and device: gradients are there while activations are.
        device: "cpu" or "cuda"; blocks of LongVU's aggregator differ in size.
    """
    counts = parameter_counts(config)
    trained, size = trained_count(config, stage, counts), settings.dtype.itemsize
    whole = sum(counts.values()) + (adapter_weights(config, stage) if stage.lora else 0)
    zero = settings.zero_stage if settings.kind == "deepspeed" else 0
    share = {stage_: workers if zero >= stage_ else 1 for stage_ in (1, 2, 3)}
    towers = counts["towers"] if "towers" in stage.frozen else 0
    gathered = 0.0
    if zero == 3:  # the visual path with the embeddings, and one layer ahead of the one at work
        text = config.text_config
        layer = counts["language_model"] / text.num_hidden_layers
        apart = ("towers", "language_model", "head")
        gathered = size * (sum(count for part, count in counts.items() if part not in apart) + 2 * layer)
    weights = size * (towers + (whole - towers) / share[3]) + gathered
    copies = (size < 4) + (stage.ema_decay is not None)
    optimizer = (_MOMENT_BYTES + _COPY_BYTES * copies) * trained / share[1]
    gradient_size = 4 if zero or size == 4 else 4 + size  # DeepSpeed accumulates its share in float32
    gradients = gradient_size * trained / share[2]
    if zero == 2 or zero == 3:
        gradients += size * min(trained, 2 * settings.bucket_elements)
    kept = activations(config, settings, work, device)
    passing = _passing(config, settings, work)
    if not accumulates and zero == 0:
        # Gradients appear while activations go: the fullest moment has all of one or all of the other.
        early, late = kept + passing, gradients
        return Memory(weights, optimizer, 0.0, early, max(0.0, late - early), 4.0 * trained / share[1] + gradients)
    return Memory(weights, optimizer, gradients, kept, passing, 4.0 * trained / share[1])


def activations(config: Any, settings: EngineSettings, work: RowWork, device: str = "cuda") -> float:
    """Bytes that the forward pass of one row keeps for its backward pass."""
    visual = family_of(config).visual_bytes(config, work, settings.dtype.itemsize, device)
    layers, size, h = config.text_config.num_hidden_layers, settings.dtype.itemsize, widths(config)[0]
    layer = work.tokens * layer_bytes(config, size)
    ends = work.tokens * (_norm_bytes(h, size) + 8 * head_width(config)) + work.targets * h * size
    if settings.gradient_checkpointing:
        return visual + ends + layers * work.tokens * h * size + layer
    return visual + ends + layers * layer


def layer_bytes(config: Any, size: int) -> float:
    """Bytes that a decoder layer keeps per token."""
    h, i, a, k = widths(config)
    # queries, output of attention for each sample and of all; keys and values; their log-sum in float32
    attention = size * (3 * a + 2 * k) + 4 * config.text_config.num_attention_heads
    return 2 * _norm_bytes(h, size) + attention + size * 4 * i


def _passing(config: Any, settings: EngineSettings, work: RowWork) -> float:
    """Bytes of the largest tensors that come and go: a chunk's logits, or the gradients inside a layer."""
    i, size = config.text_config.intermediate_size, settings.dtype.itemsize
    chunk = min(work.targets, settings.chunk_targets)
    logits = chunk * config.text_config.vocab_size * (12 + (size if size < 4 else 0))
    return max(logits, 3 * i * work.tokens * size)


def _norm_bytes(h: int, size: int) -> float:
    """Bytes that an RMS norm keeps per token: its input in float32, the normed input, the output."""
    return 4 * h + 2 * size * h + 4
