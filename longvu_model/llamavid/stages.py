"""What the three published stages train (SEMANTICS section 7)."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

Stage = Literal["alignment", "instruction", "long_video"]

_CONNECTOR = ("model.frame_tokens.", "model.image_proj.")
# Trained in a stage: names that begin with one of these.
_TRAINED: dict[str, tuple[str, ...]] = {
    "alignment": _CONNECTOR,
    "instruction": (*_CONNECTOR, "model.image_norm.", "model.qformer.", "model.language_model.", "lm_head."),
    # The adapter of the Q-Former's input is the one part of the attention that this stage leaves trainable.
    "long_video": ("model.frame_tokens.projector.", "model.image_proj.", "model.language_model.", "lm_head."),
}
# What the alignment stage writes for the next one: the connector with everything that belongs to the attention.
_SAVED = (*_CONNECTOR, "model.image_norm.", "model.qformer.")


def is_trained(name: str, stage: Stage) -> bool:
    """Whether a parameter of :class:`LlamaVidForConditionalGeneration` learns in a stage.

    Raises:
        ValueError: unknown stage.
    """
    if stage not in _TRAINED:
        raise ValueError(f"stage={stage!r}: use one of {', '.join(get_args(Stage))}")
    return name.startswith(_TRAINED[stage])


def prepare_stage(model: nn.Module, stage: Stage) -> list[str]:
    """Let exactly the parameters of a stage learn; returns their names."""
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name, stage))
        if parameter.requires_grad:
            trained.append(name)
    return trained


def is_saved_by_alignment(name: str) -> bool:
    """Whether the alignment stage saves a parameter."""
    return name.startswith(_SAVED)
