"""Loading with the decoder's matrices in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from pipelines.errors import UserError
from pipelines.video_models.base import Quantization


def quantization_config(quantization: Quantization, device: torch.device, unquantised: Sequence[str]) -> dict[str, Any]:
    """Arguments of ``from_pretrained``: the library's configuration, and the device, to which it loads directly.

    Args:
        quantization: "8bit", or "4bit" (normal float 4 with bfloat16 arithmetic).
        device: where the model goes; a quantised one cannot be moved afterwards.
        unquantised: names of modules that stay as they are.

    Raises:
        UserError: an unknown kind, or bitsandbytes is not installed.
    """
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
    return {"quantization_config": config, "device_map": {"": device}}
