"""``longvu convert SRC DST``: a checkpoint of any family from the published layout to ours, or back."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from jobs.terminal import note, quiet_libraries
from longvu_model import register
from longvu_model.checkpoint_files import CheckpointError
from longvu_model.llamavid.guides import FOLDER as GUIDES
from longvu_model.pretrained_parts import Recipe
from longvu_model.starting_point import RECIPES
from pipelines.errors import UserError
from pipelines.provenance import Provenance


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    source = options.source
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no checkpoint folder (it has no config.json)")
    towers = {name: value for name in ("siglip", "dinov2") if (value := getattr(options, name)) is not None}
    with new_folder(options.destination) as folder:
        try:
            layout = convert(source, folder, towers)
        except (CheckpointError, OSError) as error:
            raise UserError(f"{source}: {first_line(error)}") from None
        if (origin := Provenance.read(source)) is not None:
            origin.write(folder)
    print(f"{options.destination}: {layout}")
    return 0


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to write to, which takes its name when everything is written.

    Raises:
        UserError: there is something of that name.
    """
    if destination.exists():
        raise UserError(f"{destination} exists already: give a folder that does not")
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(destination)


def first_line(error: Exception) -> str:
    """What went wrong; the hub's client goes on about its causes."""
    return str(error).strip().partition("\n")[0]


def convert(source: Path, folder: Path, towers: dict[str, str]) -> str:
    """Write a checkpoint in the other layout; returns what that is, in words.

    Args:
        towers: folders of LongVU's towers, where they are not in the source.

    Raises:
        UserError: a checkpoint of another kind, or towers for one that has its own.
        CheckpointError: its tensors or fields are not those of its family.
    """
    register()  # so that the library's loaders of tokenizers know the models' types
    kind = json.loads((source / "config.json").read_text()).get("model_type")
    for recipe in RECIPES:
        official = import_module(recipe.model_class.official)
        if official.is_published(source):
            return _to_ours(recipe, official, source, folder, towers)
        if kind == recipe.model_class.config_class.model_type:
            return _to_published(recipe, official, source, folder)
    raise UserError(f"{source}: model_type {kind!r} is that of no model of ours, in neither layout")


def _to_ours(recipe: Recipe, official: Any, source: Path, folder: Path, towers: dict[str, str]) -> str:
    if towers and "siglip" not in recipe.parts:
        raise UserError(f"--{next(iter(towers))}: {source} holds its towers itself")
    model = official.load(source, **{name.removesuffix("v2"): place for name, place in towers.items()})
    model.save_pretrained(folder)
    _processor(recipe, model.config, source).save_pretrained(folder)
    return "our layout, towers included"


def _to_published(recipe: Recipe, official: Any, source: Path, folder: Path) -> str:
    model = recipe.model_class.from_pretrained(source, dtype="auto")
    official.export(model, folder)
    processor = _processor(recipe, model.config, source)
    processor.tokenizer.save_pretrained(folder)
    if hasattr(processor, "guide_tokenizer"):
        processor.guide_tokenizer.save_pretrained(folder / GUIDES)
    if model.config.semantics != "published":
        note(f"note: {source} has {model.config.semantics} semantics; released code computes as published all the same")
    return f"published layout, towers {'in siglip/ and dinov2/' if 'siglip' in recipe.parts else 'included'}"


def _processor(recipe: Recipe, config: Any, source: Path) -> Any:
    """Around the tokenizers that a checkpoint folder holds."""
    return recipe.processor(config, dict.fromkeys(recipe.parts, source))
