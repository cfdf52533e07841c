"""A run that cannot be trained is refused in one line, before anything of it is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.train import main
from longvu_model.modeling import LongVUForConditionalGeneration
from tests.pipelines.train.conftest import Library, row

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command in this process with some rows and settings; the one line that it says."""

    def run(rows: list[dict[str, Any]] | str, *overrides: str) -> str:
        annotations = tmp_path / "rows.json"
        annotations.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        words = [f"data.annotations={annotations}", f"output={tmp_path / 'out'}", f"workdir={workdir}"]
        words += ["stage.max_sequence_length=1024", "token_budget=1024", "stage.global_batch_samples=2", *overrides]
        code = main(["--config", _no_data(tmp_path), "--in-process", *words])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert code == 2 and len(said) == 1, said
        return said[0]

    return run


def _no_data(folder: Path) -> str:
    """A configuration without a store: what is shipped names one."""
    path = folder / "train.yaml"
    path.write_text(json.dumps({"workers": {"threads": 1}, "data": {"annotations": "set-on-the-command-line"}}))
    return str(path)


def written(folder: Path) -> list[Path]:
    """What is there of runs; manifests are a cache."""
    return [path for path in folder.glob("out/train/*") if path.name != "manifests"]


TALK = [row(f"What is {number}?", "a number") for number in range(4)]


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        ([], (), "an empty split"),
        ('[{"id": 1, "conversations": [', (), "rows.json"),
        ([row("Why? " * 900, "Because.")], (), "1024"),
        ([row("What?", "x", video="nowhere.mp4")], (), "Missing"),
        (TALK, ("model=no-such-model",), "no-such-model"),
        (TALK, ("data.store=no-such-store",), "no-such-store"),
        (TALK, ("data.annotations=no-such-rows.json",), "no-such-rows.json"),
        (TALK, ("stage.full_grid=5",), "full_grid=5 must divide"),
        (TALK, ("stage.lora.rank=4", "stage.lora.targets=[nothing]"), "lora.targets"),
        (TALK, ("stage.lora={}", "audit=" + __file__), "is a file; must be a folder"),
        (TALK, ("data.sampling=fps:0",), "data.sampling=fps:0: "),
        (TALK, ("stage.betas=[2,3]",), "betas=[2.0, 3.0]: each must be >= 0 and < 1"),
        (TALK, ("stage.full_grid=-6",), "stage.full_grid=-6: must be greater than or equal to 1"),
        (TALK, ("stage.low_grid=100",), "low_grid=100: the towers' grid has 12"),
        (TALK, ("stage.per_scene_loss=true",), "LongVU has no scenes"),
        (TALK, ("planned_ranks=0",), "planned_ranks=0"),
        (TALK, ("engine.attention=flash_attention_2",), "needs a GPU: set workers.gpus=1"),
        (TALK, ("engine.kind=deepspeed",), "leave out --in-process, or set engine.kind=torch"),
        pytest.param(
            *(TALK, ("workers.gpus=1",), "workers.gpus=1: torch finds no GPU"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_trained(
    rows: list[dict[str, Any]] | str, overrides: tuple[str, ...], message: str, refused: Refused, tmp_path: Path
) -> None:
    assert message in refused(rows, *overrides)
    assert not written(tmp_path)


def test_features_of_another_tower(refused: Refused, library: Library, workdir: Path, tmp_path: Path) -> None:
    model = LongVUForConditionalGeneration.from_pretrained(workdir / "models" / "tiny")
    shutil.copytree(workdir / "models" / "tiny", tmp_path / "other")
    with torch.no_grad():
        next(model.model.towers.dino.parameters()).add_(0.1)
    model.save_pretrained(tmp_path / "other")
    said = refused(TALK, f"data.store={library.stored.uri}", f"model={tmp_path / 'other'}")
    assert "was made with another dinov2 tower" in said
    assert not written(tmp_path)


def test_a_run_goes_on_only_as_what_it_was(refused: Refused, workdir: Path, tmp_path: Path) -> None:
    """Checkpoints are there, but the rows or the model changed since under the same names."""
    model = tmp_path / "model"
    shutil.copytree(workdir / "models" / "tiny", model)
    (tmp_path / "rows.json").write_text(json.dumps(TALK))
    words = [f"data.annotations={tmp_path / 'rows.json'}", f"output={tmp_path / 'out'}", f"workdir={workdir}"]
    words += ["stage.max_sequence_length=1024", "token_budget=1024", "stage.global_batch_samples=2", f"model={model}"]
    assert main(["--config", _no_data(tmp_path), "--in-process", *words]) == 0
    before = sorted(tmp_path.glob("out/train/train-*/**/*"))
    assert "was trained on other batches" in refused(TALK[:2], f"model={model}")

    config = json.loads((model / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (model / "config.json").write_text(json.dumps(config))
    assert "started from another checkpoint" in refused(TALK, f"model={model}")
    assert sorted(tmp_path.glob("out/train/train-*/**/*")) == before
