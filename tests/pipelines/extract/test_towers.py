"""Towers of a checkpoint: the same from either layout, and told apart when they differ."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longvu_model import official
from longvu_model.modeling import LongVUForConditionalGeneration
from pipelines.errors import UserError
from pipelines.extract.towers import TowerBundle, existing_folder, fingerprint, load_towers, model_folder

NAMES = ("dinov2", "siglip")


@pytest.fixture
def folder(workdir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workdir / "models" / "tiny", tmp_path / "tiny"))


def test_built_towers_are_the_models(bundle: TowerBundle, folder: Path) -> None:
    model = LongVUForConditionalGeneration.from_pretrained(folder)
    for name, tower in (("dinov2", model.model.towers.dino), ("siglip", model.model.towers.siglip)):
        pixels = torch.rand(2, 3, tower.image_size, tower.image_size)
        with torch.inference_mode():
            assert torch.equal(bundle.build(name)(pixels), tower(pixels))
        assert bundle.spec(name, "float16").width == tower.width
        assert bundle.pixels(name).size == tower.image_size


def test_published_layout_gives_the_same_digest(bundle: TowerBundle, folder: Path, tmp_path: Path) -> None:
    official.export(LongVUForConditionalGeneration.from_pretrained(folder), tmp_path / "published")
    published = load_towers(tmp_path / "published", NAMES)
    assert {name: published.digest(name) for name in NAMES} == {name: bundle.digest(name) for name in NAMES}


def test_longvus_digests_are_what_stores_were_made_with(bundle: TowerBundle) -> None:
    """The formula that stores of earlier versions have in their store.json."""
    config = bundle.config
    facts = {
        **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "hidden_act": "gelu"},
        **{"layer_norm_eps": 1e-06, "patch_size": 8, "image_size": 112, "qkv_bias": True, "use_swiglu_ffn": False},
        **{"token_grid": config.token_grid, "input_size": 96},
    }
    pixels = {"size": 96, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for found, record, weights in (
        (bundle.digest("dinov2"), facts, bundle.weights["dinov2"]),
        (bundle.preprocessing("dinov2"), pixels, b""),
    ):
        text = json.dumps(record, sort_keys=True).encode()
        assert found == hashlib.blake2b(text + weights, digest_size=16).hexdigest()


def test_digest_tells_towers_apart(bundle: TowerBundle, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] += 1
    weights["model.towers.siglip.position"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    changed = load_towers(folder, NAMES)
    assert changed.digest("dinov2") == bundle.digest("dinov2")
    assert changed.digest("siglip") != bundle.digest("siglip")

    config = json.loads((folder / "config.json").read_text())
    config["dino_image_size"] = 112
    (folder / "config.json").write_text(json.dumps(config))
    assert load_towers(folder, NAMES).digest("dinov2") != bundle.digest("dinov2")


def test_fingerprint_needs_no_reading_but_sees_change(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data + b" ")
    assert fingerprint(folder) != before


def test_presets_and_folders(workdir: Path, tmp_path: Path) -> None:
    assert model_folder("tiny", workdir) == existing_folder("tiny", workdir) == workdir / "models" / "tiny"
    assert model_folder(str(workdir / "models" / "tiny"), tmp_path) == workdir / "models" / "tiny"
    assert existing_folder("tiny", tmp_path) is None
    with pytest.raises(UserError, match=r"model=nowhere: neither a checkpoint folder .* nor a preset \(.*tiny"):
        model_folder("nowhere", tmp_path)
    with pytest.raises(UserError, match="model=s3://bucket/models/longvu: a model is read from a folder"):
        model_folder("s3://bucket/models/longvu", tmp_path)


def test_checkpoints_that_are_none(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"hold no dinov2 tower"):
        load_towers(folder, NAMES)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"model_type 'bert' is not known"):
        load_towers(folder, NAMES)
