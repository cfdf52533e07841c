"""LongVU as a citizen of ``transformers``: saving, Auto classes, pipeline, precision, checkpointing, quantisation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, pipeline

import longvu_model
from longvu_model import LongVUConfig, LongVUForConditionalGeneration, LongVUModel, LongVUProcessor
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from tests.model import builders


def logits(model: LongVUForConditionalGeneration) -> torch.Tensor:
    media = builders.fields(builders.media((30, 44, 40)))
    with torch.no_grad():
        return model(input_ids=builders.prompt(12), **media).logits


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with processor and a model whose vocabulary fits the tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    style = "qwen" if request.param == "qwen2" else "llama3"
    tokenizer = build_tiny_tokenizer(style)
    config = builders.small_config(backbone=request.param)
    config.text_config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = LongVUForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    LongVUProcessor.from_config(config, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backbone", ["qwen2", "llama"])
def test_save_and_load(tmp_path: Path, backbone: str) -> None:
    model = builders.small_model(backbone=backbone, semantics="published", query_grids=[3, 6])
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    loaded, report = LongVUForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    before, after = model.config.to_dict(), loaded.config.to_dict()
    for key in LongVUConfig.__annotations__.keys() - {"text_config", "siglip_config", "dino_config"}:
        assert after[key] == before[key], key
    assert torch.equal(logits(loaded), logits(model))
    if backbone == "llama":
        assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_auto_classes(saved: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(saved), LongVUConfig)
    assert isinstance(AutoModel.from_pretrained(saved), LongVUModel)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(saved), LongVUForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(saved), LongVUProcessor)


def test_register_is_enough_for_auto_classes(saved: Path) -> None:
    script = (
        "import longvu_model, sys; assert 'torch' not in sys.modules; longvu_model.register();"
        "from transformers import AutoModelForMultimodalLM;"
        f"print(type(AutoModelForMultimodalLM.from_pretrained({str(saved)!r})).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "LongVUForConditionalGeneration"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LongVu'"):
        longvu_model.LongVu  # noqa: B018


def test_pipeline_answers_about_a_video(saved: Path) -> None:
    video = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3), dtype=np.uint8)
    ask = pipeline("video-text-to-text", model=str(saved))
    short = ask(video, "What happens?", max_new_tokens=4, return_full_text=False)
    assert isinstance(short[0]["generated_text"], str)
    chat = [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "What happens?"}]}]
    assert ask(chat, max_new_tokens=4, return_full_text=False)[0]["generated_text"] == short[0]["generated_text"]
    with pytest.raises(ValueError, match="give a video and a question"):
        ask(video)


def test_processor_output_feeds_the_model(saved: Path) -> None:
    model = LongVUForConditionalGeneration.from_pretrained(saved)
    processor = LongVUProcessor.from_pretrained(saved)
    video = np.random.default_rng(0).integers(0, 255, (20, 20, 30, 3), dtype=np.uint8)
    content = [{"type": "video", "video": video}, {"type": "text", "text": "What happens?"}]
    chat = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, add_generation_prompt=True)
    new = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    assert new.shape == (1, 5)
    streamed = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, num_beams=2)
    assert streamed.shape == (1, 5)


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = builders.small_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = builders.prompt(12)
        model(input_ids=ids, labels=ids.clamp(min=0), **builders.fields(builders.media((30, 36, 64)))).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_only_the_towers_are_frozen() -> None:
    model = builders.small_model()
    ids = builders.prompt(12)
    # a frame count in the mixed regime, so that both resolutions take part
    media = builders.fields(builders.media((22, 48, 44)))
    model(input_ids=ids, labels=ids.clamp(min=0), **media).loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in model.named_parameters() if not name.startswith("model.towers.")}
    model.model.towers.dino.requires_grad_(True)
    model(input_ids=ids, labels=ids.clamp(min=0), **media).loss.backward()
    assert model.model.towers.dino.patch.weight.grad is not None
    assert model.model.towers.siglip.patch.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_float32(dtype: torch.dtype) -> None:
    model = builders.small_model(dino_threshold=2.0)  # no decision may depend on rounding
    expected = logits(model)
    half = builders.small_model(dino_threshold=2.0).to(dtype)
    mine = logits(half)
    assert mine.dtype == torch.float32 and mine.shape == expected.shape
    similarity = torch.nn.functional.cosine_similarity(mine[0], expected[0], dim=1)
    assert float(similarity.mean()) > 0.99


@pytest.mark.skipif(not transformers.utils.is_accelerate_available(), reason="device_map needs accelerate")
def test_device_map_and_attention_choice(tmp_path: Path) -> None:
    model = builders.small_model()
    model.save_pretrained(tmp_path)
    placed = LongVUForConditionalGeneration.from_pretrained(tmp_path, device_map="cpu", attn_implementation="eager")
    assert placed.model.language_model.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(placed), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not transformers.utils.is_bitsandbytes_available(), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_loading(tmp_path: Path, bits: int) -> None:
    # widths are multiples of the 64 weights that share a scale
    text = {**builders.small_config().text_config.to_dict(), "hidden_size": 64, "intermediate_size": 128}
    original = builders.small_model(text_config=text, vision_hidden_size=64)
    original.save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        llm_int8_skip_modules=["lm_head", "model.towers", "model.aggregator"],
    )
    model = LongVUForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantisation)
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert type(layer).__name__ == {8: "Linear8bitLt", 4: "Linear4bit"}[bits]
    similarity = torch.nn.functional.cosine_similarity(logits(model)[0], logits(original)[0], dim=1)
    assert float(similarity.mean()) > 0.8
