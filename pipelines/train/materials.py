"""What a worker trains with: model, engine and readers, made from a checked run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from longvu_model.image_processing import tower_pixels
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.video import FrameSampling
from pipelines.store import FeatureStore
from pipelines.train.engine import Engine
from pipelines.train.manifest import open_manifest
from pipelines.train.online import OnlineEncoder
from pipelines.train.plan import TrainingPlan
from pipelines.train.reader import Reader
from pipelines.train.run import Run, staged_model, training_plan
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
    model_config = model.config
    tokenizer = AutoTokenizer.from_pretrained(folder)
    store = FeatureStore.open(config.data.store) if config.data.store else None
    manifests = [open_manifest(uri) for uri in (run.manifest, run.heldout) if uri]
    online = None
    if any(manifest.num_online for manifest in manifests):
        online = _online(config.data.sampling, model, folder, config.engine.dtype)
    readers = [
        Reader(
            manifest,
            model_config,
            tokenizer,
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


def make_engine(run: Run, model: LongVUForConditionalGeneration, device: torch.device) -> Engine:
    """The engine that the configuration names."""
    settings = run.config.engine
    if settings.kind == "torch":
        return TorchEngine(model, run.config.stage, settings, device)
    from pipelines.train.deepspeed_engine import DeepSpeedEngine  # its import takes seconds

    return DeepSpeedEngine(model, run.config.stage, settings, device)


def _online(sampling: str, model: LongVUForConditionalGeneration, folder: Path, dtype: torch.dtype) -> OnlineEncoder:
    """An encoder with towers of its own: the model's may be moved, sharded or trained."""
    import copy

    pixels = tower_pixels(LongVUProcessor.from_pretrained(folder).video_processor)
    towers = copy.deepcopy(model.model.towers).requires_grad_(False).to(dtype)
    return OnlineEncoder(towers, pixels, model.config.dino_threshold, FrameSampling.parse(sampling), dtype)
