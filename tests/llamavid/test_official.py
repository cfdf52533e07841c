"""Published checkpoints on disk: written, read as a user would, and refused by name when something is off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longvu_model.checkpoint_files import CheckpointError
from longvu_model.llamavid import official
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from tests.llamavid import builders


def logits(model: LlamaVidForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        inputs = {**builders.fields(builders.media(3)), **builders.guides(5)}
        return model(input_ids=builders.prompt(12), **inputs).logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded published-layout checkpoint of a small model."""
    official.export(builders.small_model(semantics="published"), tmp_path, max_shard_size="20KB")
    return tmp_path


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    loaded = LlamaVidForConditionalGeneration.from_pretrained(folder)
    assert loaded.config.semantics == "published"
    assert torch.equal(logits(loaded), logits(builders.small_model(semantics="published")))
    official.export(loaded, tmp_path / "again")
    written = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert load_file(tmp_path / "again/model.safetensors").keys() == set(written)
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_released_fields_are_enough() -> None:
    """A configuration without our fields: shapes come from the tensors, the rest from the release's constants."""
    model = builders.small_model(
        semantics="published",
        qformer_config={
            **builders.small_config().qformer_config.to_dict(),
            "hidden_size": 24,
            "num_attention_heads": 12,
        },
    )
    published = {k: v for k, v in official.config_to_published(model.config).items() if not k.startswith("llamavid_")}
    published |= {"image_processor": "./processor/clip-patch14-224", "max_token": 2048}
    state = official.published_state(model.state_dict())
    config, read = official.read(published, list(state.items()), "memory")
    assert config.semantics == "published" and config.max_sequence_length == 2048
    assert config.qformer_config.num_attention_heads == 12
    # The picture of 224 pixels has a grid of 56 patches of 4 pixels; the table of 4 x 4 is resized to it.
    assert read["model.tower.position"].shape == (1, 56**2 + 1, 24)
    assert read["model.tower.blocks.0.query.weight"].shape == (24, 24)


def test_the_tower_may_come_from_its_own_file(folder: Path, tmp_path: Path) -> None:
    tower = {}
    for shard in folder.glob("*.safetensors"):
        kept = {}
        for name, tensor in load_file(shard).items():
            inside = name.removeprefix("model.vision_tower.vision_tower.")
            (kept if inside == name else tower)[inside if inside != name else name] = tensor
        save_file(kept, shard)
    with pytest.raises(CheckpointError, match="holds no tower"):
        official.load(folder)
    tower |= {"head.weight": torch.zeros(2, 2), "blocks.2.norm1.weight": torch.zeros(24)}
    torch.save(tower, tmp_path / "eva_vit_g.pth")
    loaded = official.load(folder, tower=tmp_path / "eva_vit_g.pth")
    assert torch.equal(logits(loaded), logits(builders.small_model(semantics="published")))


def test_buffers_of_old_libraries_are_left_out(folder: Path) -> None:
    shard = next(iter(sorted(folder.glob("*.safetensors"))))
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.vlm_att_encoder.bert.embeddings.position_ids": torch.zeros(1, 32),
    }
    save_file({**load_file(shard), **old}, shard)
    official.load(folder)
    save_file({**load_file(shard), "model.vlm_att_ln.scale": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match=r"surplus tensors: model.vlm_att_ln.scale"):
        official.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("bert_type", "raw_bert", "only Q-Formers"),
        ("bert_type", "qformer_pretrain_layer:8", "only Q-Formers"),
        ("mm_projector_type", "linear", "only 'mlp2x_gelu'"),
        ("compress_type", "grid:0", "compress_type='grid:0'"),
        ("num_query", 5, "misshapen tensors: model.vlm_att_query"),
    ],
)
def test_what_is_not_supported_is_named(folder: Path, field: str, value: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        official.load(folder, overrides={field: value})


def test_other_models_of_the_line_are_not_taken_for_it() -> None:
    assert not official.is_published_config({"model_type": "llava"})
    assert official.is_published_config({"model_type": "llava", "bert_type": "qformer_pretrain"})
