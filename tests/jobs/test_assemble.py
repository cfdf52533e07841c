"""``longvu assemble`` and ``longvu convert`` as a user types them, for every family."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from jobs.assemble import build_parser
from jobs.cli import main
from longvu_model.presets import build_preset
from longvu_model.starting_point import RECIPES, recipe_of
from pipelines.config import load_config
from pipelines.train.config import TrainConfig
from tests.documents import ROOT, commands
from tests.jobs.test_cli import refused
from tests.model import pretrained_parts as miniature
from tests.pipelines.mlflow_database import write_database

# In the documents, and above the settings of the stages.
WRITTEN = [
    line
    for path in sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("jobs/configs/*.yaml")])
    for line in (commands(path) if path.suffix == ".md" else re.findall(r"^#\s+(.*)$", path.read_text(), re.MULTILINE))
    if line.startswith("longvu assemble ")
]
ASK = ["--max-new-tokens", "2", "--model"]


def words(preset: str, destination: Path, parts: dict[str, Path]) -> list[str]:
    return [
        "assemble",
        preset,
        str(destination),
        *(f"--{name.replace('_', '-')}={path}" for name, path in parts.items()),
    ]


@pytest.fixture(scope="module")
def longvu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return miniature.parts_of(miniature.LONGVU, tmp_path_factory.mktemp("parts"))


@pytest.fixture
def picture_rows(tmp_path: Path) -> Path:
    """Four questions about a picture, as training reads them."""
    Image.new("RGB", (40, 30), "green").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A green field."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": "a", "image": "a.png", "conversations": turns}] * 4))
    return tmp_path / "rows.json"


def test_what_is_assembled_answers(
    longvu: dict[str, Path], video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    assert main([*words("tiny", start, longvu), "drop_threshold=0.9", "--seed", "3", "--dtype", "float32"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{start}: ") and "frame_tokens 21,792 (new)" in told and "towers" in told
    assert main(["ask", str(video), "What is this?", *ASK, str(start)]) == 0
    assert not list(tmp_path.glob("*.partial"))
    capsys.readouterr()
    assert "exists already" in refused(capsys, *words("tiny", start, longvu))


def test_the_first_stage_learns_from_it(picture_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LLaMA-VID's alignment: the new connector alone changes, and the export keeps every other bit."""
    parts = miniature.parts_of(miniature.LLAMAVID, tmp_path)
    start, aligned = tmp_path / "start", tmp_path / "aligned"
    assert main([*words("tiny_llamavid", start, parts)]) == 0
    settings = [f"model={start}", f"data.annotations={picture_rows}", f"data.media_root={picture_rows.parent}"]
    settings += ["stage.name=alignment", "stage.epochs=1", "stage.global_batch_samples=2", "engine.precision=bfloat16"]
    settings += [f"output={tmp_path}", f"workdir={tmp_path}"]
    settings += ["workers.count=1"]
    write_database(tmp_path)
    capsys.readouterr()
    assert main(["train", "--in-process", "--config", "jobs/configs/train_tiny_llamavid.yaml", *settings]) == 0
    told = capsys.readouterr().out.splitlines()
    checkpoint = next(line.removeprefix("checkpoint: ") for line in told if line.startswith("checkpoint: "))
    assert main(["export", checkpoint, str(aligned)]) == 0
    before, after = load_file(start / "model.safetensors"), load_file(aligned / "model.safetensors")
    changed = {name.split(".")[1] for name, tensor in before.items() if not after[name].equal(tensor)}
    assert before.keys() == after.keys() and changed == {"frame_tokens"}


def test_mistakes_are_one_line(longvu: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start"
    assert "invalid choice: 'big'" in refused(capsys, *words("big", start, longvu))
    assert "tiny lacks siglip (folder or hub id of siglip-so400m-patch14-384)" in refused(
        capsys, *words("tiny", start, {name: path for name, path in longvu.items() if name != "siglip"})
    )
    assert "tiny has no colour; it has aggregator_heads" in refused(capsys, *words("tiny", start, longvu), "colour=3")
    assert "colour: give key=value" in refused(capsys, *words("tiny", start, longvu), "colour")
    assert "query_grids=[5]" in refused(capsys, *words("tiny", start, longvu), "query_grids=[5]")
    assert "no checkpoint folder at" in refused(capsys, *words("tiny", start, {**longvu, "siglip": tmp_path / "none"}))
    assert "hub" in refused(capsys, *words("tiny", start, {**longvu, "siglip": Path("nobody/siglip")})).lower()
    assert not start.exists()


@pytest.mark.parametrize("preset", ["tiny_llamavid", "tiny_videollamb"])
def test_siblings_are_converted_there_and_back(
    preset: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes of every tensor, and an answer from each layout."""
    ours, published, again = build_preset(preset, tmp_path / "ours"), tmp_path / "published", tmp_path / "again"
    assert main(["convert", str(ours), str(published)]) == 0
    assert "published layout, towers included" in capsys.readouterr().out
    assert main(["convert", str(published), str(again)]) == 0
    before, after = load_file(ours / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    answers = []
    for folder in (ours, published, again):
        capsys.readouterr()
        assert main(["ask", str(video), "What is this?", *ASK, str(folder)]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    assert "holds its towers itself" in refused(
        capsys, "convert", str(published), str(tmp_path / "new"), "--siglip", str(ours)
    )


def test_other_models_are_no_checkpoints_of_ours(
    longvu: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "convert", str(longvu["language_model"]), str(tmp_path / "new"))
    assert "model_type 'qwen2' is that of no model of ours" in told


@pytest.mark.parametrize("line", WRITTEN)
def test_written_commands_name_all_parts(line: str) -> None:
    options = build_parser().parse_intermixed_args(shlex.split(line)[2:])
    recipe = recipe_of(options.preset)
    shape = recipe.presets[options.preset]()
    for part in recipe.parts:
        assert (getattr(options, f"part_{part}") is not None) == recipe.has(shape, part), part


def test_every_family_has_a_written_command() -> None:
    assert {recipe_of(shlex.split(line)[2]).model_class for line in WRITTEN} == {one.model_class for one in RECIPES}


def test_what_the_published_sizes_change_can_be_set() -> None:
    """The table of the recipe: each start is a preset with fields of its own, each stage takes the settings."""
    text = (ROOT / "docs/full_recipe.md").read_text()
    rows = [re.findall(r"`([^`]+)`", row) for row in re.findall(r"^\|.*`.*\|$", text, re.MULTILINE)]
    starts = [words[0].split() for words in rows if words[0].split()[0] in recipe_of("llamavid_7b").presets]
    assert len(starts) == 6
    for preset, *changes in starts:
        shape = recipe_of(preset).presets[preset]()
        for change in changes[1:]:
            assert hasattr(shape, change.partition("=")[0]), change
    settings = {word for words in rows for phrase in words[1:] for word in phrase.split()}
    assert "stage.global_batch_samples=32" in settings
    for setting in settings:
        load_config(TrainConfig, ROOT / "jobs/configs/train_llamavid_7b_instruction.yaml", [setting])
