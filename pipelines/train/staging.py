"""What a stage does to a model: :func:`apply` makes it ready to be trained.

What its family changes comes first (LongVU's token grids and thresholds, and the windows of the aggregator, from the
image stage's one token to the video stage's 2 x 2, whose position tables start from N(0, 1), as in the release), then
adapters, then ``requires_grad`` of every parameter.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import UserError
from pipelines.train.families import TrainableModel, family_of
from pipelines.train.stages import LoraSettings, Stage, is_adapter, part_of


def apply(model: TrainableModel, stage: Stage) -> None:
    """Make a model ready for a stage, in place.

    Raises:
        UserError: the model's weights do not fit the stage, it lacks a part that the stage names, or nothing would be
            trained.
    """
    family_of(model.config).prepare(model, stage)
    parts = {"head"} | {part_of(name) for name, _ in model.named_parameters()}
    if unknown := sorted((set(stage.frozen) | set(stage.part_learning_rates)) - parts):
        raise UserError(f"stage: {', '.join(unknown)}: this model's parts are {', '.join(sorted(parts))}")
    if stage.lora is not None:
        _add_adapters(model, stage.lora, stage.seed)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        learns = part not in stage.frozen and not (stage.lora is not None and part == "language_model")
        parameter.requires_grad_(learns or is_adapter(name))
    if model.lm_head.weight is model.get_input_embeddings().weight and ("head" in stage.frozen) != (
        "embeddings" in stage.frozen
    ):
        raise UserError("frozen: this model's head and embeddings are one tensor; name both of them or none")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"frozen={list(stage.frozen)}: nothing is left to train; remove a part")


def parameter_groups(model: TrainableModel, stage: Stage) -> list[dict[str, Any]]:
    """Trained parameters by learning rate, as torch optimisers take them; ``lr`` is the peak.

    Every group has a ``name`` (parts joined by "+") and ``names``, those of its parameters.
    """
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        rate = stage.part_learning_rates.get(part, stage.learning_rate)
        if stage.lora is not None and is_adapter(name):
            rate, part = stage.lora.learning_rate, "language_model"
        group = groups.setdefault(rate, {"params": [], "lr": rate, "names": [], "parts": []})
        group["params"].append(parameter)
        group["names"].append(name)
        if part not in group["parts"]:
            group["parts"].append(part)
    return list(groups.values())


@torch.no_grad()
def merged_state_dict(model: TrainableModel) -> dict[str, Tensor]:
    """The model's weights under their usual names, adapters added to what they adapt; the model stays as it is."""
    if not any(is_adapter(name) for name, _ in model.named_parameters()):
        return dict(model.state_dict())
    from peft.tuners.tuners_utils import BaseTunerLayer

    deltas = {
        f"{name}.weight": module.get_delta_weight(adapter)  # type: ignore[attr-defined]  # the linear layer's
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
        for adapter in module.active_adapters
    }
    state = {}
    for name, tensor in model.state_dict().items():
        if is_adapter(name):
            continue
        plain = name.replace(".base_layer.", ".")
        delta = deltas.get(plain)
        state[plain] = tensor if delta is None else (tensor.float() + delta.float()).to(tensor.dtype)
    return state


def _add_adapters(model: TrainableModel, lora: LoraSettings, seed: int) -> None:
    # which peft imports, and which reports kernels that it lacks here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import LoraConfig, inject_adapter_in_model

    if any(is_adapter(name) for name, _ in model.named_parameters()):
        return
    names = "|".join(lora.targets)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a factor, annotated as int
        lora_dropout=lora.dropout,
        target_modules=rf"model\.language_model\.layers\..*\.({names})",
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise UserError(f"lora.targets={list(lora.targets)}: no such layers in the language model") from error
