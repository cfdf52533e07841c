"""``longvu convert SRC DST``: a checkpoint from the published layout to ours, or back."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from jobs.terminal import note, quiet_libraries
from longvu_model import official
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from pipelines.errors import UserError
from pipelines.provenance import Provenance


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    source, destination = options.source, options.destination
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no checkpoint folder (it has no config.json)")
    if destination.exists():
        raise UserError(f"{destination} exists already: give a folder that does not")
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        layout = to_ours(options, partial) if official.is_published(source) else to_published(source, partial)
    except official.CheckpointError as error:
        raise UserError(f"{source}: {error}") from None
    if (origin := Provenance.read(source)) is not None:
        origin.write(partial)
    partial.rename(destination)
    print(f"{destination}: {layout}")
    return 0


def to_ours(options: argparse.Namespace, folder: Path) -> str:
    model = official.load(options.source, siglip=options.siglip, dino=options.dinov2)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(options.source)
    LongVUProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return "our layout, towers included"


def to_published(source: Path, folder: Path) -> str:
    model = LongVUForConditionalGeneration.from_pretrained(source, dtype="auto")
    official.export(model, folder)
    LongVUProcessor.from_pretrained(source).tokenizer.save_pretrained(folder)
    if model.config.semantics != "published":
        note(f"note: {source} has {model.config.semantics} semantics; released code computes as published all the same")
    return "published layout, towers in siglip/ and dinov2/"
