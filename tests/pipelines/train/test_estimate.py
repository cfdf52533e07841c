"""The estimate of a run: from a real manifest and plan, and at the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from longvu_model.presets import PRESETS
from pipelines.errors import UserError
from pipelines.train.config import EngineSettings
from pipelines.train.estimate import GPUS, Estimate, estimate, estimate_rows
from pipelines.train.families.longvu_costs import sample_work
from pipelines.train.run import prepare
from pipelines.train.stages import video_stage
from tests.pipelines.train.conftest import Library
from tests.pipelines.train.small_run import STEPS, make_config


def test_a_run_by_its_manifest_and_plan(library: Library, workdir: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, library.media, library.stored.uri)
    prepared = prepare(config, workdir / "models" / "tiny")
    one, two = estimate(prepared, 1), estimate(prepared, 2, utilization=0.2)
    assert one.num_steps == STEPS and one.trained == sum(one.parameters.values()) - one.parameters["towers"]
    costs = prepared.plan.epoch(0)
    tokens = sum(sum(batch.tokens) for batch in costs) / len(costs)
    assert one.tokens_per_step == pytest.approx(tokens)
    # the planner counts half of the attention and no recomputed logits, and only the language model
    planned = sum(sum(batch.flops) for batch in costs) / len(costs)
    assert planned < one.step_flops < 2 * planned
    # twice the GPUs at half the use of each, as long as they have rows to work on
    assert two.hours * two.busy == pytest.approx(one.hours * one.busy)
    assert one.checkpoint_bytes == 12 * one.trained
    page = str(one)
    for word in ("weights:", "memory per GPU:", "fits on A100-40GB", "steps: 24 steps", "I/O per step:", "cost:"):
        assert word in page
    with pytest.raises(UserError, match="use one of A100-40GB"):
        estimate(prepared, 1, gpu="H1000")


def published(preset: str, gpus: int, **settings: object) -> Estimate:
    """The published video stage: 64 videos per step, one row each."""
    config = PRESETS[preset]()
    row = sample_work(config, 256, 64, 90, (360, 640))
    engine = EngineSettings(
        **{
            "kind": "deepspeed",
            "zero_stage": 3,
            "precision": "bfloat16",
            "gradient_checkpointing": True,
            **settings,
        }
    )
    return estimate_rows(
        config,
        video_stage(),
        engine,
        [row],
        gpus=gpus,
        num_steps=1000,
        rows_per_step=64,
        gpu=GPUS["H100"],
        utilization=0.4,
        price_per_gpu_hour=3.0,
    )


def test_published_recipe_fits_where_it_was_run() -> None:
    """64 GPUs of 80 GB, fully sharded, layers recomputed; not one GPU, and not without sharding."""
    large = published("longvu_qwen2_7b", 64)
    assert "A100-80GB" in large.fits and "H100" in large.fits
    assert not published("longvu_qwen2_7b", 1).fits
    assert "A100-80GB" not in published("longvu_qwen2_7b", 64, kind="torch").fits
    assert published("longvu_llama3_2_1b", 64).memory.peak < published("longvu_llama3_2_3b", 64).memory.peak
    assert published("longvu_llama3_2_3b", 64).memory.peak < large.memory.peak
    # six operations per weight and token, and those that checkpointing adds: two more
    per_token = large.step_flops / large.tokens_per_step / (large.trained - large.parameters["embeddings"])
    assert 7 < per_token < 10


def test_more_gpus_than_rows_save_no_time() -> None:
    one, many, odd = (published("longvu_qwen2_7b", gpus) for gpus in (64, 512, 48))
    assert (one.busy, many.busy, odd.busy) == (1, 1 / 8, 2 / 3)
    assert many.hours == one.hours and odd.hours == 2 * one.hours
    assert "as there is 12% of the time" in str(many)


def test_bytes_on_the_wire() -> None:
    one = published("longvu_qwen2_7b", 1)
    assert one.traffic_bytes == 0
    two, three = (published("longvu_qwen2_7b", 64, zero_stage=stage).traffic_bytes for stage in (2, 3))
    assert two == pytest.approx(2 * 2 * one.trained, rel=0.05)
    assert three > 1.4 * two
    assert one.feature_bytes == 64 * 90 * 576 * (1152 + 1536) * 2
