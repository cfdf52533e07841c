"""Files of published checkpoints, whatever the model: folders found, tensors read, renamed, compared and written.

Whatever is missing, surplus or misshapen is an error that names the tensors; nothing is skipped quietly.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from longvu_model.checkpoint_names import NamePair, rename

_LISTED_NAMES = 8


class CheckpointError(ValueError):
    """A checkpoint does not fit the model; the message names the tensors or the field."""


def local_folder(source: str | Path) -> Path:
    """A local folder as it is; otherwise the hub's snapshot of that id.

    Raises:
        FileNotFoundError: neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(source).count("/") != 1:
        raise FileNotFoundError(f"no checkpoint folder at {source}")
    return Path(snapshot_download(str(source)))


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a folder's ``*.safetensors``, else of its ``pytorch_model*.bin``.

    Raises:
        FileNotFoundError: it has neither.
    """
    files = sorted(folder.glob("*.safetensors"))
    if files:
        for path in files:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a mapping
                    yield name, handle.get_tensor(name)
        return
    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin files")
    for path in files:
        yield from read_torch_file(path).items()


def read_torch_file(path: Path) -> Any:
    """What a file of torch's holds; its tensors stay on disk until they are used, except in files of before 2020.

    Raises:
        CheckpointError: it holds something else.
        OSError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no file of tensors: {str(error).splitlines()[0]}") from None


def read_state(
    folder: Path, pairs: Sequence[NamePair], unused: Iterable[str], prefix: str = "", target: str = ""
) -> dict[str, Tensor]:
    """Tensors of a checkpoint folder under our names; arguments as of :func:`rename_state`.

    Raises:
        CheckpointError: the folder holds names that are not known.
    """
    return rename_state(tensors(folder), pairs, unused, folder, prefix, target)


def rename_state(
    named: Iterable[tuple[str, Tensor]],
    pairs: Sequence[NamePair],
    unused: Iterable[str],
    source: str | Path,
    prefix: str = "",
    target: str = "",
) -> dict[str, Tensor]:
    """Published tensors under our names.

    Args:
        unused: patterns of names that are known and left out.
        source: what an error names.
        prefix: removed from names that carry it (towers saved inside a larger model).
        target: put in front of our names.

    Raises:
        CheckpointError: there are names that are not known.
    """
    state, surplus = {}, []
    unused = tuple(unused)
    for file_name, tensor in named:
        name = file_name.removeprefix(prefix)
        if any(re.fullmatch(pattern, name) for pattern in unused):
            continue
        ours = rename(name, pairs)
        if ours is None:
            surplus.append(file_name)
        else:
            state[target + ours] = tensor
    if surplus:
        raise CheckpointError(f"{source}: {_listed('unknown tensors', surplus)}")
    return state


def compare_state(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str | Path,
    published_name: Callable[[str], str],
    optional: Sequence[str] = (),
) -> None:
    """Compares names and shapes with those of a model.

    Args:
        optional: names that need not be there.

    Raises:
        CheckpointError: naming every kind of difference, under published names.
    """
    missing = [name for name in expected if name not in state and name not in optional]
    surplus = [name for name in state if name not in expected]
    misshapen = [
        f"{published_name(name)} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        _listed(kind, listed)
        for kind, listed in (
            ("missing tensors", [published_name(name) for name in missing]),
            ("surplus tensors", [published_name(name) for name in surplus]),
            ("misshapen tensors", misshapen),
        )
        if listed
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit its configuration: " + "; ".join(problems))


def _listed(kind: str, listed: Sequence[str]) -> str:
    more = f" and {len(listed) - _LISTED_NAMES} more" if len(listed) > _LISTED_NAMES else ""
    return f"{len(listed)} {kind}: " + ", ".join(listed[:_LISTED_NAMES]) + more


def write(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], max_shard_size: str) -> None:
    """Write ``config.json`` and the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_tensors(folder, state, max_shard_size)


def write_tensors(
    folder: Path, state: Mapping[str, Tensor], max_shard_size: str, dtype: torch.dtype | None = None
) -> None:
    """Write tensors in shards of at most that size, with their index; takes the memory of two shards.

    Args:
        dtype: what they are written in; their own by default.
    """
    written = {name: torch.empty_like(tensor, dtype=dtype, device="meta") for name, tensor in state.items()}
    split = split_torch_state_dict_into_shards(
        written, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, members in split.filename_to_tensors.items():
        shard = {name: state[name].to(written[name].dtype, copy=True).contiguous() for name in members}
        save_file(shard, folder / file_name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
