"""What 10,000 to a million videos cost, and what the published stages take on 64 H100s: the estimators' tables.

    python -m tests.benchmarks.costs          the Markdown of docs/operations.md; a test holds the page against it

Nothing is measured here. Decoding is :mod:`pipelines.extract.decode_cost`'s prediction for the machine of
docs/benchmarks.md; GPUs are counted as operations over ``UTILIZATION`` of their peak, as ``longvu estimate`` does.
"""

from __future__ import annotations

import math

import numpy as np

from longvu_model.presets import PRESETS
from longvu_model.video.stated import StatedVideo
from pipelines.config import load_config
from pipelines.extract.decode_cost import video_seconds
from pipelines.train.config import TrainConfig
from pipelines.train.estimate import GPUS, estimate_rows
from pipelines.train.families import family_of
from tests.documents import ROOT

MODEL = "longvu_qwen2_7b"
GPU, NUM_GPUS, CPUS_PER_GPU = GPUS["H100"], 64, 24
UTILIZATION, PRICE_PER_GPU_HOUR = 0.4, 3.0
# The video that the table counts: three minutes of 720p at 30 frames/s and 2 Mbit/s, sampled once a second.
SECONDS, WIDTH, HEIGHT, FPS, BIT_PER_S, GROUP_FRAMES = 180, 1280, 720, 30, 2_000_000, 250
COMPRESSION = 0.85
COUNTS = (10_000, 100_000, 1_000_000)
# Samples that the paper trained on: LLaVA-OneVision's single images, and VideoChat2-IT with its extensions.
STAGES = {"image": 3_200_000, "video": 553_000}


def main() -> None:
    print(tables())


def tables() -> str:
    """Both tables, as they stand between the marks of docs/operations.md."""
    return "\n".join([*_extraction(), "", *_training()])


def _extraction() -> list[str]:
    config = PRESETS[MODEL]()
    family = family_of(config)
    num_frames = SECONDS * FPS
    stated = StatedVideo("h264", WIDTH, HEIGHT, FPS, SECONDS, num_frames, np.arange(0, num_frames, GROUP_FRAMES))
    decode_s = video_seconds(stated, np.arange(0, num_frames, FPS), SECONDS * BIT_PER_S // 8)
    encode_s = SECONDS * family.tower_flops(config) / (GPU.peak_flops * UTILIZATION)
    stored_bytes = SECONDS * family.frame_bytes(config, 2) * COMPRESSION
    lines = _header("videos", "hours", "decoding, CPU h", "encoding, H100 h", "store", "h on the cluster", "cost of it")
    for count in COUNTS:
        decode_h, encode_h = (count * seconds / 3600 for seconds in (decode_s, encode_s))
        wall_h = max(decode_h / (NUM_GPUS * CPUS_PER_GPU), encode_h / NUM_GPUS)
        cells = (
            f"{count:,}",
            f"{count * SECONDS / 3600:,.0f}",
            f"{decode_h:,.0f}",
            f"{encode_h:,.0f}",
            f"{count * stored_bytes / 1e12:,.1f} TB",
            f"{wall_h:,.2f}",
            f"{wall_h * NUM_GPUS * PRICE_PER_GPU_HOUR:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _training() -> list[str]:
    lines = _header("stage", "samples", "steps", "s per step", "H100 h", "h on the cluster", "cost of it")
    for stage, samples in STAGES.items():
        settings = load_config(TrainConfig, ROOT / "jobs" / "configs" / f"train_7b_{stage}.yaml")
        model = PRESETS[MODEL](stage)  # type: ignore[arg-type]
        # A picture is one frame at full resolution; a video fills the rest of the context.
        frames = 1 if stage == "image" else SECONDS
        visual = 576 if stage == "image" else settings.token_budget - 256
        row = family_of(model).row_work(model, 256, visual, 64, frames, 0)
        batch = settings.stage.global_batch_samples
        assert batch is not None
        # a batch is spread over as few rows as it needs, in whole rounds of ranks
        round_samples = settings.planned_ranks * (settings.token_budget // row.tokens)
        per_row = batch // (settings.planned_ranks * math.ceil(batch / round_samples))
        rows = [row] * per_row
        packed = sum(rows[1:], rows[0])
        found = estimate_rows(
            model,
            settings.stage,
            settings.engine,
            [packed],
            gpus=NUM_GPUS,
            num_steps=samples // batch,
            rows_per_step=batch / per_row,
            gpu=GPU,
            utilization=UTILIZATION,
            price_per_gpu_hour=PRICE_PER_GPU_HOUR,
        )
        cells = (
            f"`train_7b_{stage}.yaml`",
            f"{samples:,}",
            f"{found.num_steps:,}",
            f"{3600 * found.hours / found.num_steps:.1f}",
            f"{found.hours * NUM_GPUS:,.0f}",
            f"{found.hours:,.2f}",
            f"{found.hours * NUM_GPUS * PRICE_PER_GPU_HOUR:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


if __name__ == "__main__":
    main()
