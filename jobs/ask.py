"""``longvu ask VIDEO QUESTION``: the answer on stdout; what the model looked at, and how long it took, on stderr."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.checkpoint import checkpoint_folder, device_of
from jobs.terminal import Progress, note, note_damage, quiet_libraries
from longvu_model.presets import SEAL
from longvu_model.video import FrameSampling
from pipelines import answering, storage
from pipelines.extract.towers import fingerprint, load_towers
from pipelines.store import FeatureStore, StoreError


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    device = device_of(options.device)
    folder = checkpoint_folder(options.model)
    if (folder / SEAL).is_file():
        note(f"note: {options.model} has random weights, its answer means nothing; --model takes a trained checkpoint")
    model, processor = answering.load_model(folder, device)
    if options.threshold is not None:
        model.config.dino_threshold = options.threshold
    input_ids = answering.question_ids(processor, options.question)
    if options.store is None:
        sampling = FrameSampling(fps=options.fps)
        watched = answering.watch(model, processor, options.video, sampling, input_ids, Progress("frames"))
    else:
        store = FeatureStore.open(options.store)
        check_towers(store, folder)
        watched = answering.recall(model, processor, store, options.video, input_ids)
    note_damage(options.video, watched.damage)
    answer = answering.answer(model, processor, watched, input_ids, options.max_new_tokens)
    print(answer.text)
    note(str(answer))
    return 0


def check_towers(store: FeatureStore, folder: Path) -> None:
    """Raise StoreError unless the store was made with the towers of this checkpoint."""
    if store.manifest.model.get("fingerprint") == fingerprint(folder):
        return
    bundle = load_towers(folder, tuple(store.manifest.towers))
    for name, digest in store.manifest.towers.items():
        if bundle.digest(name) != digest:
            raise StoreError(
                f"{storage.shown(store.uri)} was made with another {name} tower than that of {folder}: "
                f"use the checkpoint it was made with ({store.manifest.model.get('name', 'see its store.json')})"
            )
