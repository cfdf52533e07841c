"""Published checkpoints on disk: written, read as a user would, and refused by name when something is off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longvu_model import LongVUForConditionalGeneration, official
from longvu_model.official import CheckpointError
from tests.golden.longvu_models import build_model
from tests.model import builders

VECTORS = Path(__file__).resolve().parents[1] / "golden/vectors/longvu"


@pytest.fixture(params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A sharded published-layout checkpoint of a small model, its towers below it."""
    model = builders.small_model(backbone=request.param, semantics="published", drop_threshold=0.8)
    official.export(model, tmp_path, max_shard_size="40KB")
    return tmp_path


def logits(model: LongVUForConditionalGeneration) -> torch.Tensor:
    given = builders.fields(builders.media((30, 44, 40)))
    with torch.no_grad():
        return model(input_ids=builders.prompt(12), **given).logits


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    loaded = LongVUForConditionalGeneration.from_pretrained(folder)
    backbone = loaded.config.text_config.model_type
    original = builders.small_model(backbone=backbone, semantics="published", drop_threshold=0.8)
    assert loaded.config.semantics == "published"
    assert torch.equal(logits(loaded), logits(original))
    again = tmp_path / "again"
    official.export(loaded, again)
    assert load_file(again / "model.safetensors").keys() == set(
        json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    )
    for key, value in official.config_to_published(original.config).items():
        assert json.loads((again / "config.json").read_text())[key] == value, key


def test_corrected_semantics_survive(tmp_path: Path) -> None:
    model = builders.small_model()
    official.export(model, tmp_path)
    loaded = LongVUForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.semantics == "corrected"
    assert torch.equal(logits(loaded), logits(model))


def test_inexpressible_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="aggregator_heads=4"):
        official.export(builders.small_model(aggregator_heads=4), tmp_path)


def test_pytorch_bin_files_load(folder: Path) -> None:
    expected = logits(LongVUForConditionalGeneration.from_pretrained(folder))
    for index, shard in enumerate(sorted(folder.glob("*.safetensors"))):
        torch.save(load_file(shard), folder / f"pytorch_model-{index:05}.bin")
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    assert torch.equal(logits(LongVUForConditionalGeneration.from_pretrained(folder)), expected)


def test_towers_from_their_own_folders(folder: Path, tmp_path: Path) -> None:
    expected = logits(LongVUForConditionalGeneration.from_pretrained(folder))
    siglip, dino = tmp_path / "elsewhere/siglip", tmp_path / "elsewhere/dino"
    siglip.parent.mkdir()
    (folder / "siglip").rename(siglip)
    (folder / "dinov2").rename(dino)
    loaded = LongVUForConditionalGeneration.from_pretrained(folder, siglip=siglip, dino=str(dino))
    assert torch.equal(logits(loaded), expected)


def test_vectors_of_the_release_as_a_checkpoint_on_disk(tmp_path: Path) -> None:
    """The tiny model of the reference vectors, laid out as its authors would publish it."""
    source = VECTORS / "models/qwen_small"
    towers = json.loads((source / "towers.json").read_text())
    crop = towers["dino"].pop("crop")
    config = json.loads((source / "config.json").read_text())
    config["mm_vision_tower_aux_list"][1] = f"facebook/dinov2-giant-res{crop}"
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(source / "model.safetensors"), tmp_path / "model.safetensors")
    for part, name, kind in (("siglip", "siglip", "siglip_vision_model"), ("dino", "dinov2", "dinov2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind, **towers[part]}))
        save_file(load_file(source / f"{part}.safetensors"), tmp_path / name / "model.safetensors")
    loaded = LongVUForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    expected = build_model(VECTORS, "qwen_small", {})
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def edit(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    """Replaces, adds or (``None``) removes a tensor in whichever shard has it."""
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = load_file(shard)
        if name in tensors or tensor is not None:
            tensors.pop(name, None)
            if tensor is not None:
                tensors[name] = tensor
            save_file(tensors, shard)
            return
    raise KeyError(name)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.vision_query", None, "1 missing tensors: model.vision_query"),
        ("model.extra.weight", torch.zeros(2), "1 unknown tensors: model.extra.weight"),
        ("model.layers.7.mlp.up_proj.weight", torch.zeros(2), "1 surplus tensors: model.layers.7.mlp.up_proj.weight"),
        ("model.image_newline", torch.zeros(5), r"misshapen tensors: model.image_newline \(5,\) instead of \(32,\)"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str) -> None:
    official.export(builders.small_model(semantics="published"), tmp_path)
    edit(tmp_path, name, tensor)
    with pytest.raises(CheckpointError, match=message):
        official.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "llava", "'llava' is not a published LongVU model"),
        ("connector_only", False, "connector_only=False"),
        ("mm_projector_type", "linear", "mm_projector_type='linear'"),
        ("mm_vision_tower_aux_token_len_list", [36, 49], "towers must share one grid"),
        ("query_num_list", None, "query_num_list"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, field: str, value: object, message: str) -> None:
    official.export(builders.small_model(semantics="published"), tmp_path)
    published = json.loads((tmp_path / "config.json").read_text())
    if value is None:
        del published[field]
    else:
        published[field] = value
    (tmp_path / "config.json").write_text(json.dumps(published))
    with pytest.raises(CheckpointError, match=message):
        official.load(tmp_path)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        official.load(tmp_path / "nowhere")
    official.export(builders.small_model(semantics="published"), tmp_path / "checkpoint")
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        official.load(tmp_path / "checkpoint", siglip=tmp_path / "nowhere")
    (tmp_path / "checkpoint/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="neither"):
        official.load(tmp_path / "checkpoint")
