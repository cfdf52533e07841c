"""Loading a model of any family: precision, the decoder's matrices in 8 or 4 bits, device, changed settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from pipelines.errors import UserError
from pipelines.video_models.base import Quantization


def load_options(
    device: torch.device, dtype: torch.dtype | None, quantization: Quantization | None, unquantised: Sequence[str]
) -> dict[str, Any]:
    """Arguments of ``from_pretrained``.

    Args:
        device: where a quantised model goes, which cannot be moved afterwards.
        dtype: of the weights; the checkpoint's own by default.
        quantization: "8bit", or "4bit" (normal float 4 with bfloat16 arithmetic).
        unquantised: names of modules that stay as they are.

    Raises:
        UserError: an unknown kind of quantisation, or bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"dtype": dtype or "auto"}
    if quantization is None:
        return options
    from transformers import BitsAndBytesConfig

    if quantization not in ("8bit", "4bit"):
        raise UserError(f"quantization={quantization}: use 8bit or 4bit")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"quantization={quantization} needs the package bitsandbytes: pip install bitsandbytes")
    config = BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(unquantised),
    )
    return options | {"quantization_config": config, "device_map": {"": device}}


def settle(model: Any, device: torch.device, quantization: Quantization | None, overrides: Mapping[str, Any]) -> None:
    """Bring a loaded model to its device and into evaluation mode, and change fields of its configuration.

    Raises:
        UserError: the configuration lacks a field.
    """
    if quantization is None:
        model.to(device)
    for field, value in overrides.items():
        if not hasattr(model.config, field):
            raise UserError(f"{field}={value}: {type(model.config).__name__} has no such field")
        setattr(model.config, field, value)
    model.eval()
