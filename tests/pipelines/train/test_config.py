"""The shipped configurations load, and what is mistyped or contradicts itself is said in a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.train import main
from pipelines.config import ConfigError, load_config
from pipelines.train.config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[3] / "jobs" / "configs"
SHIPPED = sorted(CONFIGS.glob("train_*.yaml"))


# Of the published recipes: devices, peak learning rate, samples per step, tokens of a sample at most.
RECIPES = {
    "image": (64, 1e-5, 256, 8192),
    "video": (64, 5e-6, 64, 8192),
    "videollamb": (4, 2e-5, 32, 2048),
    "llamavid_alignment": (8, 1e-3, 256, 2048),
    "llamavid_instruction": (8, 2e-5, 128, 2048),
    "llamavid_long_video": (8, 2e-5, 8, 65536),
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.plan_settings().planned_ranks == config.workers.count
    if "tiny" in path.stem:
        return
    recipe = re.sub(r"train_|_?\db", "", path.stem).removeprefix("_")
    stage = config.stage
    mine = (config.workers.count, stage.learning_rate, stage.global_batch_samples, stage.max_sequence_length)
    assert mine == RECIPES[recipe]
    assert (config.workers.gpus, config.engine.precision) == (1, "bfloat16")
    assert stage.name in ("instruction" if recipe == "videollamb" else recipe)
    assert stage.schedule == "cosine" and stage.warmup_ratio == 0.03 and stage.weight_decay == 0 and stage.epochs == 1
    if stage.name in ("image", "video", "instruction"):
        assert stage.frozen == ("towers",)


def test_there_is_a_configuration_for_every_preset_and_stage() -> None:
    names = {path.stem.removeprefix("train_") for path in SHIPPED}
    longvu = {f"{size}_{stage}" for size in ("tiny", "1b", "3b", "7b") for stage in ("image", "video")}
    siblings = {"tiny_videollamb", "videollamb_7b", "tiny_llamavid"}
    siblings |= {f"llamavid_7b_{stage}" for stage in ("alignment", "instruction", "long_video")}
    assert names == longvu | siblings


def test_where_and_how_fast_is_not_part_of_the_digest() -> None:
    base = load_config(TrainConfig, CONFIGS / "train_tiny_video.yaml")
    same = ["workers.count=8", "checkpoint.every_steps=7", "watch.spike=halt", "data.store=elsewhere", "output=x"]
    other = ["stage.learning_rate=1e-3", "seed=1", "token_budget=4096", "data.annotations=other.json", "model=x"]
    for override in same:
        assert load_config(TrainConfig, CONFIGS / "train_tiny_video.yaml", [override]).digest() == base.digest()
    for override in other:
        assert load_config(TrainConfig, CONFIGS / "train_tiny_video.yaml", [override]).digest() != base.digest()


def test_steps_of_so_many_tokens() -> None:
    overrides = ["stage.global_batch_samples=null", "stage.global_batch_tokens=16384"]
    settings = load_config(TrainConfig, CONFIGS / "train_tiny_video.yaml", overrides).plan_settings()
    assert (settings.global_batch_samples, settings.global_batch_tokens) == (None, 16384)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.learning_rat=1", "did you mean stage.learning_rate"),
        ("checkpoint.every_steps=0", "greater than or equal to 1"),
        ("watch.spike=ignore", "skip"),
        ("token_budget=512", "must be at least stage.max_sequence_length"),
        ("engine.zero_stage=4", "engine.zero_stage=4"),
        ("stage.global_batch_tokens=8192", "the other must be null"),
        ("stage.global_batch_samples=null", "one of the two decides"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, CONFIGS / "train_tiny_video.yaml", [override])
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(CONFIGS / "train_tiny_video.yaml"), override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
