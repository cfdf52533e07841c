"""A checkpoint's weights as a model folder: what asks, evaluates and serves, or the image stage's gift to the video
stage."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch

from pipelines import storage
from pipelines.errors import UserError
from pipelines.model_digests import model_digest
from pipelines.provenance import Provenance
from pipelines.train import engine_state, staging
from pipelines.train.checkpoint import read_commit
from pipelines.train.config import TrainConfig
from pipelines.train.families import TrainableModel, family_of
from pipelines.train.run import RUN_FILE, staged_model
from pipelines.train.stages import Stage

Layout = Literal["longvu", "published"]


def export(source: str, destination: Path, layout: Layout = "longvu", *, average: bool = False) -> None:
    """Write a model folder from a checkpoint; frozen weights come from the model that the run started from.

    Args:
        source: folder or prefix of a finished checkpoint.
        destination: a local folder that does not exist yet.
        layout: Hugging Face's (``save_pretrained``), or that of the published checkpoints.
        average: take the average of the weights over steps, which ``stage.ema_decay`` keeps, instead of the last ones.

    Raises:
        UserError: no finished checkpoint, a damaged one, one without the average, or one that was copied away from its
            run; a destination that exists or cannot be made; or the model that the run started from is no longer what
            it was.
    """
    found = read_commit(storage.resolve(source))
    if destination.exists():
        raise UserError(f"{destination} exists already: give a folder that does not")
    if damage := found.damage():
        raise UserError(f"{damage}: the checkpoint cannot be used; export another one of {storage.shown(found.uri)}/..")
    place = storage.join(found.uri.rsplit("/", 2)[0], RUN_FILE)
    try:
        run = json.loads(storage.read_bytes(place))
    except FileNotFoundError:
        raise UserError(f"{storage.shown(place)} is missing: export a checkpoint from where its run wrote it") from None
    config, folder = TrainConfig.model_validate(run["config"]), Path(run["model_folder"])
    if not folder.is_dir() or model_digest(folder, Path(config.workdir)) != found.progress.model:
        raise UserError(
            f"{folder} is no longer the model that {storage.shown(found.uri)} started from and needs for what it did "
            f"not train: bring that model back"
        )
    model = staged_model(config, folder).float()  # as checkpoints are
    with found.local_folder() as shards, torch.no_grad():
        weights = engine_state.consolidate(shards, engine_state.AVERAGE if average else engine_state.MASTER)
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights.pop(name))
    assert not weights, f"trained parameters that the model does not have: {sorted(weights)}"
    merged = staging.merged_state_dict(model)
    plain = type(model)(model.config).float()
    plain.load_state_dict(merged)
    plain.generation_config = model.generation_config
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{destination}: cannot be made ({error}); give another folder") from None
    plain.to(dtype=config.engine.dtype)  # type: ignore[call-arg]
    _write(plain, config.stage, folder, partial, layout)
    Provenance(found.uri, found.progress.run_id).write(partial)
    partial.rename(destination)


def _write(model: TrainableModel, stage: Stage, source: Path, folder: Path, layout: Layout) -> None:
    family = family_of(model.config).open(source, model.config, stage)
    if layout == "published":
        import_module(model.official).export(model, folder)
        family.save_tokenizers(folder)
        return
    model.save_pretrained(folder)
    family.save_processor(folder)
