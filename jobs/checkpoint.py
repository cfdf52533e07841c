"""The checkpoint that a command's ``--model`` names."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from jobs.terminal import note
from longvu_model.presets import SEAL
from pipelines.errors import UserError
from pipelines.extract.towers import model_folder


def cache_folder() -> Path:
    """Where presets are built once for all commands: ``$XDG_CACHE_HOME/longvu``, by default ``~/.cache/longvu``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longvu"


def checkpoint_folder(model: str) -> Path:
    """A checkpoint folder, or a preset built into the cache.

    Raises:
        UserError: neither, or a preset that has no weights of its own.
    """
    try:
        return model_folder(model, cache_folder())
    except (ValueError, FileExistsError) as error:
        raise UserError(f"--model {model}: {str(error).removeprefix(f'model={model}: ')}") from None


def note_random_weights(model: str, folder: Path) -> None:
    """Say that a preset knows nothing."""
    if (folder / SEAL).is_file():
        note(f"note: {model} has random weights, its answers mean nothing; --model takes a trained checkpoint")


def device_of(name: str | None) -> torch.device:
    """The device of that name; a GPU where there is one if no name is given.

    Raises:
        UserError: no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        # AssertionError: a torch built without CUDA.
        raise UserError(f"--device {name}: there is none here; use cpu, or cuda on a machine with a GPU") from None
    return device
