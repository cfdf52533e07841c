"""Presets: the published sizes exactly, and a tiny model that loads like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from longvu_model import LongVUForConditionalGeneration, LongVUProcessor, checkpoint_names
from longvu_model.presets import PRESETS, SEAL, build_preset, random_model, tiny

SHARED_NAMES = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "longvu" / "names"

# Published checkpoints: tensors and parameters of language model and connector, of SigLIP (without the unused pooling
# head) and of DINOv2 (without the unused mask token).
PUBLISHED = {
    ("longvu_qwen2_7b", "video"): (429, 7_671_665_664),
    ("longvu_qwen2_7b", "image"): (423, 7_671_641_088),
    ("longvu_llama3_2_3b", "video"): (345, 3_264_865_280),
    ("longvu_llama3_2_3b", "image"): (339, 3_264_840_704),
    ("longvu_llama3_2_1b", "video"): (237, 1_281_635_328),
}
DINO_PARAMETERS = 1_136_480_768 - 1536


def on_meta(name: str, stage: str) -> LongVUForConditionalGeneration:
    with torch.device("meta"):
        return LongVUForConditionalGeneration(PRESETS[name](stage))


def published_shapes(model: LongVUForConditionalGeneration) -> dict[str, list[int]]:
    return {
        checkpoint_names.rename(name, checkpoint_names.MODEL_NAMES, to_published=True): list(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith("model.towers.")
    }


@pytest.mark.parametrize(("name", "stage"), PUBLISHED)
def test_published_sizes(name: str, stage: str) -> None:
    model = on_meta(name, stage)
    tensors, parameters = PUBLISHED[name, stage]
    assert len(published_shapes(model)) == tensors
    towers = sum(parameter.numel() for parameter in model.model.towers.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - towers == parameters
    assert sum(parameter.numel() for parameter in model.model.towers.dino.parameters()) == DINO_PARAMETERS
    assert model.model.towers.siglip.position.shape == (729, 1152)


@pytest.mark.parametrize(("name", "stage"), PUBLISHED)
def test_published_names_and_shapes(name: str, stage: str) -> None:
    file = SHARED_NAMES / f"full_{name.removeprefix('longvu_')}_{stage}.json"
    if not file.is_file():
        pytest.skip("published names are not here")
    assert published_shapes(on_meta(name, stage)) == json.loads(file.read_text())


def test_stages_differ_only_where_published() -> None:
    image, video = PRESETS["longvu_qwen2_7b"]("image"), PRESETS["longvu_qwen2_7b"]("video")
    differing = {key for key, value in image.to_dict().items() if video.to_dict()[key] != value}
    assert differing == {"full_grid", "query_grids", "mixed_resolution"}
    assert (image.full_grid, image.query_grids, image.mixed_resolution) == (24, [24], False)
    assert (video.full_grid, video.query_grids, video.low_grid) == (12, [12], 8)
    assert (video.dino_threshold, video.drop_threshold, video.max_sequence_length) == (0.83, 0.8, 8192)


@pytest.mark.parametrize("stage", ["image", "video"])
def test_tiny_keeps_the_published_ratios(stage: str) -> None:
    small, large = tiny(stage), PRESETS["longvu_qwen2_7b"](stage)
    for config in (small, large):
        assert (config.token_grid, config.full_grid, config.low_grid) == tuple(
            config.token_grid * part // 24 for part in (24, 24 if stage == "image" else 12, 8)
        )


def test_a_wrong_stage_is_named() -> None:
    with pytest.raises(ValueError, match="stage='audio': use image or video"):
        tiny("audio")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_preset("tiny", tmp_path_factory.mktemp("presets") / "tiny")


def test_the_folder_loads_through_auto_classes_and_answers(folder: Path) -> None:
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert isinstance(model, LongVUForConditionalGeneration)
    assert isinstance(processor, LongVUProcessor)
    for name, tensor in random_model(tiny()).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    frames = np.random.default_rng(0).integers(0, 256, (20, 60, 80, 3), dtype=np.uint8)
    inputs = processor(text="<image>\nWhat is this?", videos=[frames])
    answer = model.generate(**inputs, max_new_tokens=4)
    assert answer.shape == (1, 4)
    assert int(answer.max()) < len(processor.tokenizer)


def test_same_arguments_same_bytes_another_seed_other_weights(folder: Path, tmp_path: Path) -> None:
    again, other = build_preset("tiny", tmp_path / "again"), build_preset("tiny", tmp_path / "other", seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_the_number_of_threads_changes_no_bytes(folder: Path, tmp_path: Path) -> None:
    """Or a store made on one machine would not fit the same preset on another."""
    before = torch.get_num_threads()
    torch.set_num_threads(3 if before == 1 else 1)
    try:
        again = build_preset("tiny", tmp_path / "again")
    finally:
        torch.set_num_threads(before)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_building_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random_model(tiny())
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_folder_is_left_alone_and_another_build_replaced(tmp_path: Path) -> None:
    weights = build_preset("tiny", tmp_path) / "model.safetensors"
    weights.touch()
    before = weights.stat().st_mtime_ns
    build_preset("tiny", tmp_path)
    assert weights.stat().st_mtime_ns == before
    sealed = (tmp_path / SEAL).read_text()
    build_preset("tiny", tmp_path, stage="image")
    assert (tmp_path / SEAL).read_text() != sealed
    assert not LongVUForConditionalGeneration.from_pretrained(tmp_path).config.mixed_resolution


def test_an_interrupted_build_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for seed in (0, 1):  # into an empty folder, and over another build
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(LongVUProcessor, "save_pretrained", fail)
            build_preset("tiny", tmp_path, seed=seed)
        assert not (tmp_path / SEAL).exists()
        assert json.loads((build_preset("tiny", tmp_path, seed=seed) / SEAL).read_text())["seed"] == seed


def test_foreign_folders_and_unknown_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no preset"):
        build_preset("tiny", tmp_path)
    with pytest.raises(ValueError, match="preset 'huge': use one of tiny, longvu_qwen2_7b"):
        build_preset("huge", tmp_path)
    with pytest.raises(ValueError, match="configuration only"):
        build_preset("longvu_qwen2_7b", tmp_path)
