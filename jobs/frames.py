"""``longvu frames VIDEO``: a contact sheet of what frame selection does with a video."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.checkpoint import checkpoint_folder, device_of
from jobs.terminal import quiet_libraries
from longvu_model.video import FrameSampling
from pipelines.contact_sheet import contact_sheet
from pipelines.errors import UserError
from pipelines.extract.towers import load_towers
from pipelines.scored_frames import score_video


def run(options: argparse.Namespace) -> int:
    quiet_libraries()
    device = device_of(options.device)
    output = options.output or Path(f"{Path(options.video).stem}.frames.png")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.parent}; create it first")
    bundle = load_towers(checkpoint_folder(options.model), ("dinov2",))
    tower = bundle.build("dinov2").to(device)
    threshold = bundle.config.dino_threshold if options.threshold is None else options.threshold
    scored = score_video(options.video, tower, FrameSampling(fps=options.fps), threshold=threshold)
    sheet = contact_sheet(
        scored.frames,
        scored.times_s,
        scored.similarity,
        scored.kept,
        title=Path(options.video).name,
        threshold=threshold,
    )
    sheet.save(output, format="PNG")
    kept = int(scored.kept.sum())
    print(f"{output}: {len(scored.kept)} frames sampled, {kept} below the similarity threshold {threshold:g}")
    return 0
