"""What a recipe starts from: parts in, one folder out that every entry point takes, and no tensor unaccounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    InstructBlipQFormerModel,
    LlamaConfig,
)

from longvu_model import LongVUConfig, register
from longvu_model import pretrained_parts as longvu_parts
from longvu_model.checkpoint_files import CheckpointError, write_tensors
from longvu_model.llamavid.presets import tiny_llamavid
from longvu_model.presets import TINY_VOCABULARY, tiny
from longvu_model.starting_point import assemble, new_tensors, recipe_of
from pipelines.train.config import TrainConfig
from pipelines.train.run import staged_model
from tests.model import pretrained_parts as miniature
from tests.model.pretrained_parts import LLAMAVID, LONGVU, MEM, Making, parts_of

STARTS: dict[str, Making] = {
    "tiny": LONGVU,
    "tiny_llama3": {**LONGVU, "language_model": miniature.llama3},
    "tiny_llamavid": LLAMAVID,
    "tiny_videollamb": {**MEM, "video_tower": miniature.languagebind_video},
    "tiny_videollamb_mem": MEM,
}
STAGES = {"longvu": "image", "llamavid": "alignment", "videollamb": "instruction"}

register()


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Path]]]:
    """An assembled folder of each recipe, and its parts."""
    made = {}
    for preset, making in STARTS.items():
        folder = tmp_path_factory.mktemp(preset)
        parts = parts_of(making, folder)
        made[preset] = (folder / "start", parts)
        assemble(preset, folder / "start", parts, max_shard_size="300KB")
    return made


@pytest.fixture(scope="module", autouse=True)
def tiny_llama3() -> Iterator[None]:
    """The tiny shape for a Llama 3.2; the published one has thirty million new weights."""
    text = LlamaConfig(vocab_size=TINY_VOCABULARY, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    fields = {**tiny("image").to_dict(), "text_config": text, "prompt_style": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(longvu_parts.RECIPE.presets, "tiny_llama3", lambda: LongVUConfig(**fields))
        yield


@pytest.mark.parametrize("preset", STARTS)
def test_every_entry_point_takes_it(preset: str, starts: dict[str, tuple[Path, dict[str, Path]]]) -> None:
    folder, _ = starts[preset]
    assert len(list(folder.glob("*.safetensors"))) > 1
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model, recipe_of(preset).model_class) and model.config.semantics == "corrected"
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    config = TrainConfig.model_validate(
        {"data": {"annotations": "none.json"}, "stage": {"name": STAGES[model.config.model_type]}}
    )
    staged_model(config, folder)


@pytest.mark.parametrize("preset", STARTS)
def test_it_speaks_as_its_language_model(preset: str, starts: dict[str, tuple[Path, dict[str, Path]]]) -> None:
    """The same logits, tokens and end; positions as the recipe has them."""
    folder, parts = starts[preset]
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    language = parts["language_model"]
    if preset.startswith("tiny_videollamb"):
        miniature.change_config(language, model_type="llama")
    plain: dict[str, Any] = {}
    if preset == "tiny_llama3":
        plain["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    expected = AutoModelForCausalLM.from_pretrained(language, dtype=model.dtype, **plain)
    ids = processor.tokenizer("What is happening in the video?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, expected(input_ids=ids).logits.float())
    assert model.generation_config.eos_token_id == expected.config.eos_token_id
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
    assert processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True).count("What is it?") == 1


@pytest.mark.parametrize("preset", STARTS)
def test_new_weights_are_the_seed_and_nothing_else_is(
    preset: str, starts: dict[str, tuple[Path, dict[str, Path]]], tmp_path: Path
) -> None:
    folder, parts = starts[preset]
    before = torch.random.get_rng_state()
    states = {}
    for seed in (0, 1):
        sizes = assemble(preset, tmp_path / str(seed), parts, seed=seed)
        states[seed] = load_file(tmp_path / str(seed) / "model.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)
    again = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert again.keys() == states[0].keys()
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in again.items()), "the size of shards is no seed"
    differing = {name.split(".")[1] for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert differing == {name for name in recipe_of(preset).new if name in sizes}
    assert sum(sizes.values()) == sum(tensor.numel() for tensor in again.values())


def test_the_q_former_is_the_librarys(starts: dict[str, tuple[Path, dict[str, Path]]]) -> None:
    """InstructBLIP's file in the library's own Q-Former reads the same of an image for a text."""
    folder, parts = starts["tiny_llamavid"]
    ours = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).model.qformer.eval()
    state = torch.load(parts["qformer"])["model"]
    theirs = InstructBlipQFormerModel(tiny_llamavid().qformer_config).eval()
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("Qformer.bert."):
            inside = name.removeprefix("Qformer.bert.").replace(".self.", ".attention.")
            renamed[inside.replace("embeddings.LayerNorm", "embeddings.layernorm")] = tensor.bfloat16().float()
    report = theirs.load_state_dict(renamed, strict=False)
    assert not report.missing_keys and set(report.unexpected_keys) <= {"embeddings.position_ids"}
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 9, 64, generator=generator)
    ids, mask = torch.randint(5, 90, (2, 6), generator=generator), torch.ones(2, 6)
    mask[1, 4:] = 0
    queries = state["query_tokens"].bfloat16().float().expand(2, -1, -1)
    seen = torch.cat([torch.ones(queries.shape[:2]), mask], dim=1)
    with torch.no_grad():
        read = theirs(ids, attention_mask=seen, query_embeds=queries, encoder_hidden_states=image).last_hidden_state
        assert torch.allclose(ours(image, ids, mask), read[:, : queries.shape[1]], atol=1e-4)


def test_long_videos_get_their_positions(tmp_path: Path) -> None:
    """The 64K preset divides positions of a model for 2048 by 32."""
    parts = parts_of(LLAMAVID, tmp_path)
    config, _ = recipe_of("llamavid_7b_long").read(recipe_of("llamavid_7b_long").presets["llamavid_7b_long"](), parts)
    assert config.text_config.rope_parameters["rope_type"] == "linear"
    assert config.text_config.rope_parameters["factor"] == 32.0
    assert config.max_sequence_length == 65536 and config.text_config.max_position_embeddings == 2048


def test_the_shape_may_differ_from_the_presets(tmp_path: Path) -> None:
    assemble("tiny_llamavid", tmp_path / "start", parts_of(LLAMAVID, tmp_path), changes={"compress_type": "grid:2"})
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "start").config.tokens_per_frame == 5


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    return parts_of(LONGVU, tmp_path)


def refused(parts: dict[str, Path], tmp_path: Path, preset: str = "tiny") -> str:
    """What assembling ends with; nothing is written."""
    with pytest.raises((ValueError, OSError)) as caught:
        assemble(preset, tmp_path / "start", parts)
    assert not (tmp_path / "start").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "removed", "complaint"),
    [
        ("language_model", "model.layers.1.mlp.up_proj.weight", "1 missing tensors: model.layers.1.mlp.up_proj.weight"),
        ("siglip", "vision_model.encoder.layers.2.mlp.fc1.bias", "1 missing tensors: model.towers.siglip.*fc1.bias"),
        ("dinov2", "layernorm.weight", "1 missing tensors: model.towers.dino.layernorm.weight"),
    ],
)
def test_missing_tensors_are_named(
    part: str, removed: str, complaint: str, parts: dict[str, Path], tmp_path: Path
) -> None:
    miniature.change_tensors(parts[part], remove=removed)
    with pytest.raises(CheckpointError, match=complaint):
        assemble("tiny", tmp_path / "start", parts)


@pytest.mark.parametrize("part", LONGVU)
def test_unknown_tensors_are_named(part: str, parts: dict[str, Path], tmp_path: Path) -> None:
    """Those of a connector too: a language model that brings one was trained already."""
    miniature.change_tensors(parts[part], **{"model.vision_query": torch.zeros(2)})
    assert f"{parts[part]}: 1 unknown tensors: model.vision_query" in refused(parts, tmp_path)


def test_wrong_parts_are_named(parts: dict[str, Path], tmp_path: Path) -> None:
    assert "tiny lacks dinov2 (folder or hub id of dinov2-giant)" in refused(
        {name: path for name, path in parts.items() if name != "dinov2"}, tmp_path
    )
    assert "tiny takes no eva: it is made of language_model, siglip, dinov2" in refused(
        {**parts, "eva": parts["siglip"]}, tmp_path
    )
    assert "unknown tensors" in refused({**parts, "siglip": parts["dinov2"], "dinov2": parts["siglip"]}, tmp_path)
    assert "no checkpoint folder at" in refused({**parts, "siglip": tmp_path / "none"}, tmp_path)
    assert "model_type='qwen2': the preset is made for llama" in refused(parts, tmp_path, "longvu_llama3_2_1b")
    assert "preset 'big': use one of tiny, longvu_qwen2_7b" in refused(parts, tmp_path, "big")


def test_stretched_language_models_and_longer_vocabularies_are_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    language = parts["language_model"]
    config = json.loads((language / "config.json").read_text())
    miniature.change_config(language, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})
    assert "linear scaling of positions" in refused(parts, tmp_path)
    miniature.change_config(language, **{"rope_parameters": config["rope_parameters"], "vocab_size": 300})
    assert "tokens for 300 embeddings" in refused(parts, tmp_path)


def test_files_that_hold_something_else_are_named(tmp_path: Path) -> None:
    parts = parts_of(LLAMAVID, tmp_path)
    assert "no file at" in refused({**parts, "eva": tmp_path / "none.pth"}, tmp_path, "tiny_llamavid")
    parts["qformer"].write_text("<html>not found</html>")
    assert f"{parts['qformer']} is no file of tensors" in refused(parts, tmp_path, "tiny_llamavid")
    torch.save({"query_tokens": torch.zeros(1)}, parts["qformer"])
    assert "it is not InstructBLIP's file" in refused(parts, tmp_path, "tiny_llamavid")


def test_files_of_torch_before_2020_are_read(tmp_path: Path) -> None:
    parts = parts_of(LLAMAVID, tmp_path)
    assemble("tiny_llamavid", tmp_path / "new", parts)
    torch.save(torch.load(parts["eva"]), parts["eva"], _use_new_zipfile_serialization=False)
    assemble("tiny_llamavid", tmp_path / "old", parts)
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("old", "new"))
    assert all(torch.equal(old[name], new[name]) for name in new)


def test_a_module_that_does_not_say_how_it_starts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("tiny_videollamb")
    with torch.device("meta"):
        model = recipe.model_class(recipe.presets["tiny_videollamb"]())
    model.model.bridge.register_parameter("forgotten", torch.nn.Parameter(torch.empty(2, device="meta")))
    with pytest.raises(AssertionError, match=r"model\.bridge\.forgotten"):
        new_tensors(model, recipe.new, 0)


def test_shards_take_the_wanted_type(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {"a": torch.randn(1000), "b": torch.randn(10, 100).T, "c": torch.randn(500).half()}
    write_tensors(tmp_path, state, "2KB", torch.bfloat16)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * 2500
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], state[name].to(torch.bfloat16))
