"""From a checkpoint folder to the class of its family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import UserError
from pipelines.video_models.base import Quantization, VideoModel

# model_type of config.json -> module with a function `load`; published layouts have a model_type of their own.
_FAMILIES = {
    "longvu": "longvu",
    "cambrian_qwen": "longvu",
    "cambrian_llama": "longvu",
    "videollamb": "videollamb",
    "llamavid": "llamavid",
}
# Published checkpoints of the LLaVA line share model types; each sibling knows its own.
_PUBLISHED_SIBLINGS = ("videollamb", "llamavid")
_DIGESTED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")
_PIECE_BYTES = 16 << 20
_THREADS = 4


def load_video_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> VideoModel:
    """A checkpoint of any family, in our layout or the published one, ready to answer.

    Args:
        path: folder with ``config.json``, weights and tokenizer.
        device: where it runs.
        dtype: of the weights; the checkpoint's own by default.
        quantization: hold the decoder's matrices in 8 or 4 bits; needs bitsandbytes.
        overrides: fields of the model's configuration to change, e.g. ``{"dino_threshold": 0.75}``; part of the
            digest.

    Raises:
        UserError: no checkpoint there, or one of an unknown family, or an override that the configuration lacks.
        CheckpointError: tensors are missing, surplus or misshapen.
    """
    folder = Path(path)
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no checkpoint (config.json is missing); give the folder of a model") from None
    family = import_module(f"pipelines.video_models.{family_of(config, path)}")
    model: VideoModel = family.load(folder, torch.device(device), dtype, quantization, overrides or {})
    model.name = folder.name
    model.digest = _with_settings(checkpoint_digest(folder), dtype, quantization, overrides)
    return model


def family_of(config: Mapping[str, Any], path: str | Path) -> str:
    """The model family of a ``config.json``, of our layout or a published one: longvu, videollamb or llamavid.

    Args:
        path: where it lies, for the error.

    Raises:
        UserError: an unknown one.
    """
    kind = config.get("model_type")
    if kind in _FAMILIES:
        return _FAMILIES[kind]
    for sibling in _PUBLISHED_SIBLINGS:
        if import_module(f"longvu_model.{sibling}.official").is_published_config(config):
            return sibling
    raise UserError(f"{path}: model_type {kind!r} is not known; there are {', '.join(_FAMILIES)}")


def checkpoint_digest(path: str | Path) -> str:
    """32 hex digits over all that decides what a checkpoint computes: weights, configuration, tokenizer.

    Nothing is loaded; files are hashed in pieces by several threads, as fast as they can be read.
    """
    folder = Path(path)
    files = sorted({file for pattern in _DIGESTED for file in folder.rglob(pattern) if file.is_file()})
    digest = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(_THREADS) as threads:
        for file in files:
            digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            for piece in threads.map(lambda span: _piece_digest(*span), _pieces(file)):
                digest.update(piece)
    return digest.hexdigest()


def _pieces(file: Path) -> Iterator[tuple[Path, int]]:
    return ((file, start) for start in range(0, file.stat().st_size, _PIECE_BYTES))


def _piece_digest(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return hashlib.blake2b(opened.read(_PIECE_BYTES), digest_size=16).digest()


def _with_settings(
    digest: str, dtype: torch.dtype | None, quantization: str | None, overrides: Mapping[str, Any] | None
) -> str:
    """The checkpoint's own digest, or another one if it is not run as it is."""
    if dtype is None and quantization is None and not overrides:
        return digest
    settings = [digest, str(dtype), quantization, sorted((overrides or {}).items())]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()
