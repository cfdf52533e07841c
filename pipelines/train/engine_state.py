"""The trained weights and their moments as pieces: a checkpoint of engines that any other engine can go on from.

A rank holds a piece of a parameter: a range of its elements, flat, with their float32 weights and both moments of
AdamW. It may be all of it (plain torch) or what a ZeRO stage leaves to the rank. Each rank writes its pieces into one
safetensors file, no rank talks to another, and whoever reads takes the ranges it needs from all files; so the number
of workers, the ZeRO stage and the engine may change in between, bit for bit. Frozen weights are not in it.

    shard-00000-of-00002.safetensors    tensors "<kind>/<start>/<name>", kinds master, exp_avg, exp_avg_sq, average
                                        metadata: steps done, shapes of the parameters
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.errors import UserError

MASTER, AVERAGE = "master", "average"
MOMENTS = ("exp_avg", "exp_avg_sq")


class CheckpointMismatch(UserError):
    """A checkpoint that the model at hand cannot go on from."""


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``start + numel`` of a parameter, flat.

    ``tensors`` has float32 tensors (numel,): the weights, both moments, and their average over steps if the stage asks
    for one. In an engine they are views of its memory.
    """

    name: str
    start: int
    tensors: Mapping[str, Tensor]

    @property
    def numel(self) -> int:
        return len(self.tensors[MASTER])

    def share(self, rank: int, world_size: int) -> Piece:
        """The ``rank``-th of ``world_size`` parts of nearly equal size, for ranks that all hold the whole."""
        first, last = (self.numel * edge // world_size for edge in (rank, rank + 1))
        tensors = {kind: tensor[first:last] for kind, tensor in self.tensors.items()}
        return Piece(self.name, self.start + first, tensors)


def shard_name(rank: int, world_size: int) -> str:
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"


def snapshot(pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """The pieces' tensors copied to the CPU, named as in a shard."""
    return {
        f"{kind}/{piece.start}/{piece.name}": tensor.detach().to("cpu", torch.float32, copy=True)
        for piece in pieces
        for kind, tensor in piece.tensors.items()
        if piece.numel
    }


def write_shard(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    rank: int,
    world_size: int,
    steps: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> Path:
    """Write one rank's snapshot; the file appears under its name only when it is whole."""
    path = Path(folder) / shard_name(rank, world_size)
    metadata = {"steps": str(steps), "shapes": json.dumps(shapes, sort_keys=True)}
    unfinished = path.with_suffix(".unfinished")
    save_file(dict(tensors), unfinished, metadata=metadata)
    os.replace(unfinished, path)
    return path


def read_pieces(folder: str | Path, pieces: Iterable[Piece], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Fill pieces from the shards of a folder.

    Args:
        pieces: their tensors are written to.
        shapes: of the trained parameters, compared with the checkpoint's.

    Returns:
        Optimiser steps that the checkpoint had done.

    Raises:
        CheckpointMismatch: shards are missing or damaged, or the parameters are others; nothing was written.
    """
    paths = _shards(Path(folder))
    with safe_open(paths[0], "pt") as first:
        metadata = first.metadata()
    saved = {name: tuple(shape) for name, shape in json.loads(metadata["shapes"]).items()}
    _compare(folder, saved, shapes)
    wanted: dict[str, list[Piece]] = {}
    averaged = False
    for piece in pieces:
        wanted.setdefault(piece.name, []).append(piece)
    for path in paths:
        with safe_open(path, "pt") as shard:
            for key in shard.keys():  # noqa: SIM118 - a safetensors file has no iterator
                kind, start, name = key.split("/", 2)
                averaged |= kind == AVERAGE
                for piece in wanted.get(name, []):
                    if kind in piece.tensors:
                        _copy_overlap(shard.get_slice(key), int(start), piece.start, piece.tensors[kind])
    if not averaged:  # averaging begins here
        for piece in itertools.chain.from_iterable(wanted.values()):
            if AVERAGE in piece.tensors:
                piece.tensors[AVERAGE].copy_(piece.tensors[MASTER])
    return int(metadata["steps"])


def consolidate(folder: str | Path, kind: str = MASTER) -> dict[str, Tensor]:
    """The whole float32 weights of the trained parameters, or their :data:`AVERAGE`, on the CPU.

    Raises:
        CheckpointMismatch: shards are missing, or there is no average in them.
    """
    with safe_open(_shards(Path(folder))[0], "pt") as first:
        if not any(key.startswith(f"{kind}/") for key in first.keys()):  # noqa: SIM118
            raise CheckpointMismatch(f"{folder}: holds no {kind}; averages are kept with stage.ema_decay")
        shapes = {name: tuple(shape) for name, shape in json.loads(first.metadata()["shapes"]).items()}
    whole = {name: torch.empty(shape) for name, shape in shapes.items()}
    read_pieces(folder, [Piece(name, 0, {kind: tensor.view(-1)}) for name, tensor in whole.items()], shapes)
    return whole


def _shards(folder: Path) -> list[Path]:
    """All shards of a checkpoint, complete."""
    found = sorted(folder.glob("shard-*.safetensors"))
    if not found:
        raise CheckpointMismatch(f"{folder}: no shard-*.safetensors; give the folder of a finished checkpoint")
    count = int(found[0].stem.rsplit("-", 1)[1])
    expected = [folder / shard_name(rank, count) for rank in range(count)]
    if found != expected:
        raise CheckpointMismatch(
            f"{folder}: has {', '.join(path.name for path in found)}, a checkpoint of {count} workers has "
            f"{count} shards; give a finished checkpoint"
        )
    return found


def _compare(folder: str | Path, saved: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> None:
    if saved == here:
        return
    missing, surplus = sorted(here.keys() - saved.keys()), sorted(saved.keys() - here.keys())
    misshapen = [
        f"{name} {saved[name]} instead of {here[name]}"
        for name in sorted(saved.keys() & here.keys())
        if saved[name] != here[name]
    ]
    found = [
        f"{label}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for label, names in (("missing", missing), ("not trained here", surplus), ("of another shape", misshapen))
        if names
    ]
    raise CheckpointMismatch(
        f"{folder}: a checkpoint of another model or another choice of trained parts ({'; '.join(found)}); "
        f"resume with the configuration that wrote it, or start from its export"
    )


def _copy_overlap(source: object, source_start: int, start: int, target: Tensor) -> None:
    """Copy what a stored range and a piece have in common; ``source`` is a slice of a safetensors file."""
    source_end = source_start + source.get_shape()[0]  # type: ignore[attr-defined]
    first, last = max(source_start, start), min(source_end, start + len(target))
    if first < last:
        values = source[first - source_start : last - source_start]  # type: ignore[index]
        target[first - start : last - start].copy_(values)
