"""``longvu frames VIDEO``: a contact sheet of what frame selection does with a video."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.checkpoint import checkpoint_folder, device_of
from jobs.terminal import note_damage, quiet_libraries
from longvu_model.towers import DinoTower
from longvu_model.video import FrameSampling
from pipelines import storage
from pipelines.contact_sheet import contact_sheet
from pipelines.errors import UserError
from pipelines.extract.towers import check_towers, load_towers
from pipelines.scored_frames import score_video, stored_frames
from pipelines.store import FeatureStore


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    device = device_of(options.device)
    output = options.output or Path(f"{Path(options.video).stem}.frames.png")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.parent}; create it first")
    folder = checkpoint_folder(options.model)
    bundle = load_towers(folder, ("dinov2",))
    threshold = bundle.config.dino_threshold if options.threshold is None else options.threshold
    if options.store is None:
        tower = bundle.build("dinov2")
        assert isinstance(tower, DinoTower)
        sampling = FrameSampling(fps=options.fps)
        scored = score_video(options.video, tower.to(device), sampling, threshold=threshold)
    else:
        store = FeatureStore.open(options.store)
        check_towers(store, folder)
        scored = stored_frames(store, storage.sha256(storage.resolve(options.video)), threshold=threshold)
    note_damage(options.video, scored.damage)
    title = Path(options.video).name
    sheet = contact_sheet(
        scored.frames, scored.times_s, scored.similarity, scored.kept, title=title, threshold=threshold
    )
    sheet.save(output, format="PNG")
    kept = int(scored.kept.sum())
    print(f"{output}: {len(scored.kept)} frames sampled, {kept} below the similarity threshold {threshold:g}")
    return 0
