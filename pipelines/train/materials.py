"""What a worker trains with: model, engine and readers, made from a checked run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from longvu_model.video import FrameSampling
from pipelines.errors import UserError
from pipelines.store import FeatureStore
from pipelines.train.engine import Engine
from pipelines.train.families import TrainableModel
from pipelines.train.manifest import open_manifest
from pipelines.train.online import OnlineEncoder
from pipelines.train.plan import TrainingPlan
from pipelines.train.reader import Reader
from pipelines.train.run import Run, open_family, staged_model, training_plan
from pipelines.train.torch_engine import TorchEngine


@dataclass(frozen=True)
class Materials:
    """Of one worker."""

    run: Run
    engine: Engine
    plan: TrainingPlan
    reader: Reader
    heldout: Reader | None


def make_materials(run: Run, device: torch.device) -> Materials:
    """Load the model and open the data; the default process group, if there is one, exists."""
    config = run.config
    if config.workers.threads is not None:
        torch.set_num_threads(config.workers.threads)
    folder = Path(run.model_folder)
    model = staged_model(config, folder)
    store = FeatureStore.open(config.data.store) if config.data.store else None
    family = open_family(config, folder, model.config, store)
    manifests = [open_manifest(run.manifest)]
    if run.heldout:
        heldout, most = open_manifest(run.heldout), config.evaluation.most_samples
        manifests.append(heldout.part(most) if most else heldout)
    online = None
    if any(manifest.num_online for manifest in manifests):
        watchers = family.watchers(model, folder, config.engine.dtype)
        online = OnlineEncoder(watchers, FrameSampling.parse(config.data.sampling))
    readers = [
        Reader(
            manifest,
            family,
            store,
            online if manifest.num_online else None,
            threads=config.workers.reader_threads,
            steps_ahead=config.workers.steps_ahead,
            pin_memory=device.type == "cuda",
        )
        for manifest in manifests
    ]
    engine = make_engine(run, model, device)
    return Materials(run, engine, training_plan(config, manifests[0]), readers[0], readers[1] if run.heldout else None)


def make_engine(run: Run, model: TrainableModel, device: torch.device) -> Engine:
    """The engine that the configuration names.

    Raises:
        UserError: it needs what is not installed here.
    """
    settings = run.config.engine
    if settings.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            "engine.attention=flash_attention_2: flash-attn is not installed; pip install flash-attn, or leave it out"
        )
    if settings.kind == "torch":
        return TorchEngine(model, run.config.stage, settings, device)
    from pipelines.train.deepspeed_engine import DeepSpeedEngine  # its import takes seconds

    return DeepSpeedEngine(model, run.config.stage, settings, device)
