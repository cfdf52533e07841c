"""The published recipe as stage objects, and what they do to a model."""

from __future__ import annotations

import math

import pytest
import torch

from longvu_model.config import LongVUConfig
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.presets import PRESETS
from pipelines.config import ConfigError, load_config
from pipelines.errors import UserError
from pipelines.train import stages, staging
from pipelines.train.config import EngineSettings
from pipelines.train.stages import LoraSettings, Stage, image_stage, part_of, video_stage
from pipelines.train.torch_engine import TorchEngine
from tests.model.builders import small_config, small_model
from tests.pipelines.train import problem


def meta_model(config: LongVUConfig) -> LongVUForConditionalGeneration:
    with torch.device("meta"):
        return LongVUForConditionalGeneration(config)


LONGVU_PARTS: tuple[stages.Part, ...] = (
    "towers",
    "aggregator",
    "projector",
    "newline",
    "embeddings",
    "language_model",
    "head",
)


@pytest.mark.parametrize("preset", ["longvu_qwen2_7b", "longvu_llama3_2_3b", "longvu_llama3_2_1b", "tiny"])
def test_both_stages_give_the_grids_of_the_presets(preset: str) -> None:
    limit = PRESETS[preset]().max_sequence_length
    for name, stage in (("image", image_stage), ("video", video_stage)):
        model, expected = meta_model(PRESETS[preset]("image")), PRESETS[preset](name)
        staging.apply(model, stage(max_sequence_length=limit))
        fields = ("full_grid", "query_grids", "low_grid", "mixed_resolution", "dino_threshold", "drop_threshold")
        fields += ("max_sequence_length",)
        mine, theirs = ({field: getattr(config, field) for field in fields} for config in (model.config, expected))
        assert mine == theirs
        shapes = {name: p.shape for name, p in model.named_parameters()}
        assert shapes == {name: p.shape for name, p in meta_model(expected).named_parameters()}


def test_published_recipe() -> None:
    image, video = image_stage(), video_stage()
    assert (image.learning_rate, video.learning_rate) == (1e-5, 5e-6)
    assert (image.global_batch_samples, video.global_batch_samples) == (256, 64)
    for stage in (image, video):
        assert (stage.epochs, stage.warmup_ratio, stage.schedule) == (1, 0.03, "cosine")
        assert (stage.weight_decay, stage.betas, stage.epsilon, stage.clip_norm) == (0.0, (0.9, 0.999), 1e-8, 1.0)
        assert stage.frozen == ("towers",) and stage.max_sequence_length == 8192


def test_schedule_is_the_librarys() -> None:
    from transformers import get_cosine_schedule_with_warmup

    total, stage = 137, video_stage()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(total * stage.warmup_ratio), total)
    for step in range(total):
        assert stage.lr_factor(step, total) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()
    assert video_stage(schedule="constant").lr_factor(100, total) == 1.0


def test_from_576_to_144_tokens_only_position_tables_are_new() -> None:
    """Image stage to video stage: windows grow from 1 to 4 tokens, everything else keeps its bits."""
    built = {}
    for seed in (0, 0, 1):
        model = small_model(full_grid=6, mixed_resolution=False)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert not any("pos_embed" in name for name in before)
        staging.apply(model, video_stage(seed=seed, max_sequence_length=200))
        after = model.state_dict()
        added = {name: tensor for name, tensor in after.items() if name not in before}
        assert len(added) == 4 and all(
            "pos_embed" in name and tensor.shape == (4, 32) for name, tensor in added.items()
        )
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        if seed in built:
            assert all(torch.equal(built[seed][name], tensor) for name, tensor in added.items())
        built[seed] = added
        values = torch.cat([tensor.flatten() for tensor in added.values()])
        assert abs(values.mean()) < 0.2 and abs(values.std() - 1) < 0.15
    assert not torch.equal(*(next(iter(built[seed].values())) for seed in (0, 1)))
    assert (model.config.full_grid, model.config.low_grid, model.config.mixed_resolution) == (3, 2, True)
    engine = TorchEngine(model, video_stage(max_sequence_length=200), EngineSettings())
    bins = problem.global_batch(0, 2)
    assert math.isfinite(engine.step(problem.dealt(bins), problem.targets(bins)).loss)
    staging.apply(model, video_stage(max_sequence_length=200))  # once more: nothing left to do
    with pytest.raises(UserError, match="windows of 4 tower tokens and the stage asks for 1"):
        staging.apply(model, image_stage())


@pytest.mark.parametrize(
    "frozen",
    [
        ("towers",),
        ("towers", "language_model", "embeddings", "head"),
        ("towers", "aggregator", "projector", "newline"),
        ("aggregator", "language_model"),
    ],
)
def test_frozen_parts_keep_their_bits_and_the_others_learn(frozen: tuple[stages.Part, ...]) -> None:
    stage = problem.stage(frozen=frozen, learning_rate=1e-3, warmup_ratio=0.0)
    model = problem.model(stage)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = TorchEngine(model, stage, EngineSettings())
    for step in range(2):
        bins = problem.global_batch(step, 3)
        engine.step(problem.dealt(bins), problem.targets(bins))
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    frozen_names = {name for name in before if part_of(name) in frozen}
    assert frozen_names <= same
    # What no token of these batches reads keeps its bits, too: nothing but tables of positions.
    assert all("position" in name for name in same - frozen_names)


def test_learning_rates_by_part() -> None:
    stage = problem.stage(part_learning_rates={"projector": 3e-4, "aggregator": 3e-4, "newline": 1e-3})
    groups = staging.parameter_groups(problem.model(stage), stage)
    rates = {part: group["lr"] for group in groups for part in group["parts"]}
    assert rates == {
        "aggregator": 3e-4, "projector": 3e-4, "newline": 1e-3,
        "embeddings": 1e-4, "language_model": 1e-4, "head": 1e-4,
    }  # fmt: skip
    assert all(len(group["params"]) == len(group["names"]) for group in groups)
    engine = TorchEngine(problem.model(stage), stage, EngineSettings())
    bins = problem.global_batch(0, 1)
    engine.step(problem.dealt(bins), problem.targets(bins), lr_factor=0.5)
    assert sorted(group["lr"] for group in engine.optimizer.param_groups) == pytest.approx([5e-5, 1.5e-4, 5e-4])


def test_adapters_learn_instead_of_the_language_model() -> None:
    stage = problem.stage(lora=LoraSettings(rank=2, learning_rate=1e-2), warmup_ratio=0.0)
    model = problem.model(stage)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    bins = problem.global_batch(0, 2)
    engine = TorchEngine(model, stage, EngineSettings())
    engine.step(problem.dealt(bins), problem.targets(bins))
    engine.step(problem.dealt(bins), problem.targets(bins))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    language = {name for name in changed if part_of(name) == "language_model"}
    assert language and all(stages.is_adapter(name) for name in language)
    assert len([name for name in before if stages.is_adapter(name)]) == 2 * 7 * 2  # A and B of 7 layers in 2 blocks

    # Merged, it is a plain model that computes the same.
    plain = LongVUForConditionalGeneration(model.config)
    plain.load_state_dict(staging.merged_state_dict(model))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(
            plain.eval()(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


def test_adapters_begin_with_the_stages_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.rand(1)  # whatever was drawn before
        stage = problem.stage(lora=LoraSettings(rank=2), seed=seed)
        return next(p for name, p in problem.model(stage).named_parameters() if "lora_A" in name)

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="nothing is left to train"):
        staging.apply(small_model(), video_stage(frozen=LONGVU_PARTS))
    with pytest.raises(UserError, match="bridge: this model's parts are aggregator, embeddings"):
        staging.apply(small_model(), video_stage(frozen=("towers", "bridge")))
    with pytest.raises(UserError, match="one tensor; name both"):
        staging.apply(small_model(backbone="llama"), video_stage(frozen=("towers", "head")))
    with pytest.raises(UserError, match="must divide the towers' grid of 6"):
        staging.apply(small_model(), video_stage(full_grid=4))
    with pytest.raises(UserError, match="no such layers"):
        staging.apply(small_model(), video_stage(lora=LoraSettings(targets=("qkv",))))
    with pytest.raises(ValueError, match="belongs to none of the parts"):
        part_of("model.decoder.weight")
    for wrong, message in (
        (["frozen=[tower]"], "frozen"),
        (["part_learning_rates={towers: 1e-5}"], "which are frozen"),
        (["part_learning_rates={head: 0}"], "must be > 0"),
        (["learning_rate=0"], "greater than 0"),
        (["lr=1e-5"], "unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(Stage, None, wrong)


def test_every_parameter_belongs_to_a_part() -> None:
    for backbone in ("qwen2", "llama"):
        model = LongVUForConditionalGeneration(small_config(backbone=backbone))
        parts = {part_of(name) for name, _ in model.named_parameters()}
        assert parts == set(LONGVU_PARTS) - ({"head"} if backbone == "llama" else set())
