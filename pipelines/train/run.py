"""A training run before its first step: everything that can be wrong is found here, by one process, before anything
is written; and what every worker then starts from.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines import storage
from pipelines.errors import UserError
from pipelines.model_digests import model_digest
from pipelines.store import FeatureStore
from pipelines.train import checkpoint, staging
from pipelines.train.annotations import AnnotationFile, annotation_files
from pipelines.train.config import TrainConfig
from pipelines.train.families import Family, TrainableModel, family_of, family_of_folder
from pipelines.train.families.films import Films
from pipelines.train.manifest import Manifest
from pipelines.train.manifest_builder import ManifestSettings, build_manifest
from pipelines.train.plan import TrainingPlan

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """A run that can start; every worker gets a copy.

    Args:
        config: what was asked for.
        model_folder: checkpoint to start from, ours or the published layout.
        model_digest: of its content.
        manifest: of the samples to learn.
        heldout: of those to evaluate on.
        plan_digest: of the batches.
        num_steps: global batches.
    """

    config: TrainConfig
    model_folder: str
    model_digest: str
    manifest: str
    heldout: str | None
    plan_digest: str
    num_steps: int

    @property
    def uri(self) -> str:
        return self.config.run_uri

    @property
    def checkpoints(self) -> str:
        return storage.join(self.uri, "checkpoints")

    def write(self, start: str) -> None:
        """Leave beside the checkpoints what they were made with.

        Args:
            start: name of this start of the job; the one before may write no more.
        """
        record = dataclasses.asdict(self) | {"config": self.config.model_dump(mode="json"), "start": start}
        storage.write_bytes(storage.join(self.uri, RUN_FILE), json.dumps(record, indent=1).encode() + b"\n")

    def last_start(self) -> str:
        """Name of the start that called :meth:`write` last."""
        return str(json.loads(storage.read_bytes(storage.join(self.uri, RUN_FILE)))["start"])


@dataclass(frozen=True)
class Prepared:
    """A run and what was made to check it."""

    run: Run
    family: Family[Any]
    manifest: Manifest
    heldout: Manifest | None
    plan: TrainingPlan


def prepare(config: TrainConfig, model_folder: Path) -> Prepared:
    """Check a configuration against its model, data and checkpoints, and plan its batches.

    Args:
        model_folder: of the model that the configuration names.

    Raises:
        UserError: what cannot be used, in one line; nothing but manifests was written.
    """
    config = _located(config)
    model_config = staged_config(config, model_folder)
    store = FeatureStore.open(config.data.store) if config.data.store else None
    family = open_family(config, model_folder, model_config, store)
    files = annotation_files(config.data.annotations, config.data.media_root)
    held_files = annotation_files(config.data.heldout, config.data.media_root) if config.data.heldout else []

    def manifest_of(chosen: list[AnnotationFile]) -> Manifest:
        root = storage.join(storage.resolve(config.output), "train", "manifests")
        found = build_manifest(root, chosen, family, store, manifest_settings(config))
        if found.num_online and not config.data.online:
            raise UserError(
                f"data.online=false, and {found.num_online} of {len(found)} samples of {chosen[0].uri} have media that "
                f"are not in data.store={config.data.store}: extract them, or set data.online=true"
            )
        return found

    manifest = manifest_of(files)
    heldout = manifest_of(held_files) if held_files else None
    plan = training_plan(config, manifest)
    run = Run(
        config=config,
        model_folder=str(model_folder.resolve()),
        model_digest=model_digest(model_folder, Path(config.workdir)),
        manifest=manifest.uri,
        heldout=heldout.uri if heldout else None,
        plan_digest=plan.digest,
        num_steps=plan.num_steps,
    )
    check_progress(run)
    return Prepared(run, family, manifest, heldout, plan)


def open_family(config: TrainConfig, folder: Path, model_config: Any, store: FeatureStore | None) -> Family[Any]:
    """The family of a model as the stage sets it, with its tokenizers and what the data add."""
    films = Films(store, config.data.subtitles) if config.data.subtitles else None
    return family_of(model_config).open(folder, model_config, config.stage, films)


def manifest_settings(config: TrainConfig) -> ManifestSettings:
    data = config.data
    return ManifestSettings(
        max_tokens=config.token_budget,
        on_too_long=data.on_too_long,
        join=data.join,
        ignore_keys=data.ignore_keys,
        sampling=data.sampling,
        max_quarantined_fraction=data.max_quarantined_fraction,
    )


def training_plan(config: TrainConfig, manifest: Manifest) -> TrainingPlan:
    return TrainingPlan(manifest.costs, config.seed, config.stage.epochs, config.plan_settings())


def staged_config(config: TrainConfig, folder: Path) -> Any:
    """The model's configuration as the stage sets it; no weights are read."""
    return staged_model(config, folder, weights=False).config


def staged_model(config: TrainConfig, folder: Path, *, weights: bool = True) -> TrainableModel:
    """The model, ready for the stage.

    Args:
        weights: false for a model without memory, to look at.

    Raises:
        UserError: the folder holds no checkpoint that can be trained, or one that the stage does not fit.
    """
    family = family_of_folder(folder)
    make = family.model_class
    try:
        model_config = make.config_class.from_pretrained(folder)
        # published rules make a sample depend on its neighbours in a padded batch, which packing does not have
        model_config.semantics = "corrected"
        family.configure(model_config, config.stage)
        if weights:
            model = make.from_pretrained(folder, config=model_config)
        else:
            with torch.device("meta"):
                model = make(model_config)
    except (OSError, ValueError) as error:
        raise UserError(f"model={folder}: {error}") from None
    staging.apply(model, config.stage)
    return model  # type: ignore[no-any-return]  # of the family's class


def _located(config: TrainConfig) -> TrainConfig:
    """The same with absolute places: workers have working directories of their own."""

    def absolute(place: str | None) -> str | None:
        return None if place is None else storage.shown(storage.resolve(place))

    data = config.data.changed(
        **{name: absolute(getattr(config.data, name)) for name in ("media_root", "store", "subtitles")}
    )
    places = {name: absolute(getattr(config, name)) for name in ("output", "workdir", "audit")}
    return config.changed(data=data, **places)


def check_progress(run: Run) -> None:
    """Compare what is there of the run with what it would be now.

    Raises:
        UserError: its checkpoints were planned from something else.
    """
    for found in checkpoint.finished(run.checkpoints)[:1]:
        where, progress = storage.shown(found.uri), found.progress
        if progress.plan_digest != run.plan_digest:
            raise UserError(
                f"{where} was trained on other batches than these: the annotations, the feature store or the tokenizer "
                f"changed since; undo that, or give the run another name="
            )
        if progress.model != run.model_digest:
            raise UserError(
                f"{where} started from another checkpoint than model={run.config.model} is now: undo that, or give the "
                f"run another name="
            )
