"""The plain engine: it learns, skips, averages, and goes on from its checkpoints; DeepSpeed's is compared with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longvu_model.presets import random_model, tiny
from pipelines.train import engine_state, stages, staging
from pipelines.train.collate import collate
from pipelines.train.config import EngineSettings
from pipelines.train.prepared import PreparedSample
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.train import problem


def engine(stage: stages.Stage | None = None, **settings: object) -> TorchEngine:
    stage = stage or problem.stage()
    return TorchEngine(problem.model(stage), stage, EngineSettings(**settings))


def weights(one: TorchEngine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in one.model.named_parameters()}


def same(mine: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_overfits_one_batch(checkpointing: bool) -> None:
    """The tiny preset learns a batch of text, picture and video by heart."""
    stage = stages.video_stage(learning_rate=3e-3, max_sequence_length=1024, schedule="constant")
    model = random_model(tiny())
    staging.apply(model, stage)
    one = TorchEngine(model, stage, EngineSettings(gradient_checkpointing=checkpointing))
    bins = [[tiny_sample(0, "video"), tiny_sample(1, "text")], [tiny_sample(2, "image")]]
    share = [collate(samples, one.device, torch.float32) for samples in bins]
    losses: list[float] = []
    while len(losses) < 60 and min(losses, default=1.0) >= 0.05:
        losses.append(one.step(share, problem.targets(bins), min(1.0, (len(losses) + 1) / 10)).loss)
    assert losses[0] > 5 and losses[-1] < 0.05


def tiny_sample(index: int, modality: str) -> PreparedSample:
    """A sample of the tiny preset's shape: features of its towers instead of pixels."""
    small = problem.sample(index, modality, text_tokens=16, frames=2)
    if small.media is None:
        return small
    generator = torch.Generator().manual_seed(index)
    frames = int(small.media.frame_counts.sum())
    features = [torch.randn(frames, 144, 64, generator=generator).half() for _ in range(2)]
    changes = {"pixel_values_siglip": None, "pixel_values_dino": None}
    shown = dataclasses.replace(small.media, siglip_features=features[0], dino_features=features[1], **changes)
    return dataclasses.replace(small, media=shown)


def test_a_step_tells_what_it_did() -> None:
    one, bins = engine(), problem.global_batch(0, 3)
    result = one.step(problem.dealt(bins), problem.targets(bins))
    samples = [sample for samples in bins for sample in samples]
    assert [(s.index, s.sample_id, s.modality, s.num_targets) for s in result.samples] == [
        (s.index, s.sample_id, s.modality, s.num_targets) for s in samples
    ]
    assert result.loss == pytest.approx(sum(s.loss_sum for s in result.samples) / problem.targets(bins))
    assert result.num_tokens > sum(len(s.input_ids) for s in samples) and result.grad_norm > 0
    # what a sample contributes is its own: alone, its loss is the same
    alone = one.forward(problem.dealt([[samples[0]]]))[0]
    again = one.forward(problem.dealt(bins))[0]
    assert alone.loss_sums[0].item() == pytest.approx(again.loss_sums[0].item(), rel=1e-6)


def test_a_discarded_batch_leaves_no_trace() -> None:
    disturbed, calm = engine(), engine()
    bins, bad = problem.global_batch(0, 2), problem.global_batch(7, 2)
    for one in (disturbed, calm):
        one.step(problem.dealt(bins), problem.targets(bins))
    disturbed.backward(problem.dealt(bad), 1)
    disturbed.discard()
    before = weights(disturbed)
    assert same(before, weights(calm))
    for one in (disturbed, calm):
        one.step(problem.dealt(bins), problem.targets(bins))
    assert same(weights(disturbed), weights(calm)) and not same(before, weights(calm))


def test_clipping_limits_the_step() -> None:
    bins = problem.global_batch(0, 1)
    norms = {}
    for limit in (0.0, 1e-3):
        one = engine(problem.stage(clip_norm=limit))
        one.backward(problem.dealt(bins), problem.targets(bins))
        whole = torch.cat([g.flatten() for g in one.gradients().values()]).norm().item()
        norms[limit] = one.update(1.0)
        assert norms[limit] == pytest.approx(whole, rel=1e-5)
        moment = one.optimizer.state[next(iter(one.masters.values()))]["exp_avg"]
        assert moment.norm() > 0
    moments = torch.cat([s["exp_avg"].flatten() for s in one.optimizer.state.values()]).norm()
    assert moments.item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_from_a_checkpoint_is_the_same_run(precision: str, tmp_path: Path) -> None:
    stage = problem.stage(ema_decay=0.9)
    whole, first, second = (engine(stage, precision=precision) for _ in range(3))
    problem.trajectory(whole, 4, 2)
    problem.trajectory(first, 2, 2)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.steps == 2 and same(first.snapshot(), second.snapshot())
    problem.trajectory(second, 2, 2, first=2)
    assert same(whole.snapshot(), second.snapshot()) and same(weights(whole), weights(second))


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    one = engine(problem.stage(ema_decay=0.75))
    expected = {name: p.detach().clone() for name, p in one.trained.items()}
    for _ in range(3):
        problem.trajectory(one, 1, 1, first=5)
        expected = {name: 0.75 * mean + 0.25 * one.trained[name].detach() for name, mean in expected.items()}
    one.save(tmp_path)
    found = engine_state.consolidate(tmp_path, engine_state.AVERAGE)
    for name, mean in expected.items():
        torch.testing.assert_close(found[name], mean, rtol=1e-5, atol=1e-7)
    now = engine_state.consolidate(tmp_path)
    assert all(torch.equal(now[name], p) for name, p in one.trained.items())

    plain = engine()
    plain.load(tmp_path)  # an engine without averages does not mind them
    (tmp_path / "plain").mkdir()
    plain.save(tmp_path / "plain")
    with pytest.raises(engine_state.CheckpointMismatch, match="holds no average"):
        engine_state.consolidate(tmp_path / "plain", engine_state.AVERAGE)
    one.load(tmp_path / "plain")  # and from a checkpoint without them, they begin
    pieces = one.pieces()
    assert all(torch.equal(piece.tensors["average"], piece.tensors["master"]) for piece in pieces)
