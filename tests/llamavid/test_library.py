"""LLaMA-VID as a citizen of ``transformers``: saving, precision, checkpointing, quantisation, and its own loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig

from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.sight import Views
from longvu_model.llamavid.stages import Stage, prepare_stage
from tests.llamavid import builders


def inputs(frames: int = 3) -> dict[str, Tensor]:
    return {**builders.fields(builders.media(frames)), **builders.guides(5)}


def test_save_and_load(tmp_path: Path) -> None:
    model = builders.small_model(semantics="published", compress_type="grid:2", image_norm=True)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    loaded, report = LlamaVidForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for key in model.config.__annotations__.keys() - {"text_config", "vision_config", "qformer_config"}:
        assert getattr(loaded.config, key) == getattr(model.config, key), key
    with torch.no_grad():
        given = {"input_ids": builders.prompt(9), **inputs()}
        assert torch.equal(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize(
    ("kind", "tokens"), [("none", 17), ("mean", 2), ("grid:2", 5), ("grid:4", 17)], ids=lambda value: str(value)
)
def test_tokens_of_a_frame(kind: str, tokens: int) -> None:
    model = builders.small_model(compress_type=kind)
    assert model.config.tokens_per_frame == tokens
    with torch.no_grad():
        output = model(input_ids=builders.prompt(9), **inputs())
    assert output.logits.shape[1] == 8 + 3 * tokens == 8 + model.model.plan(3)


def test_the_question_changes_the_context_token_alone() -> None:
    model, media = builders.small_model(), builders.media(2)
    ids, first, second = builders.prompt(6, slots=(0,)), builders.guides(5), builders.guides(5, seed=3)
    seen = []
    for guides in (first, second):
        with torch.no_grad():
            views = Views(guides["guide_ids"], guides["guide_mask"], torch.tensor([0]))
            seen.append(model.model.see(ids, media, views).merged.inputs_embeds[0, :4])
    assert not torch.equal(seen[0][0::2], seen[1][0::2])
    assert torch.equal(seen[0][1::2], seen[1][1::2])


def test_encoded_once_asked_twice() -> None:
    model, media = builders.small_model(), builders.media(3)
    encoded = model.encode_video(media)
    for seed in (0, 3):
        guides = builders.guides(5, seed=seed)
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        reused = model.generate(builders.prompt(9), encoded=encoded, **guides, **options)
        anew = model.generate(builders.prompt(9), **builders.fields(media), **guides, **options)
        assert reused.tolist() == anew.tolist() and reused.shape == (1, 4)


def test_long_videos_take_a_slot_per_token() -> None:
    model, media, guides = builders.small_model(), builders.media(2), builders.guides(5)
    scattered = model(input_ids=builders.prompt(9, slots=(1, 2, 5, 6)), token_slots=True, **inputs(2))
    assert scattered.logits.shape[1] == 9
    together = model(input_ids=builders.prompt(9, slots=(1, 2, 3, 4)), token_slots=True, **inputs(2))
    ids = builders.prompt(9, slots=(1, 2, 3, 4))
    spliced = model(input_ids=torch.cat([ids[:, :2], ids[:, 5:]], dim=1), **builders.fields(media), **guides)
    assert torch.equal(together.logits, spliced.logits)
    with pytest.raises(ValueError, match="3 places in the text for 4 visual tokens of 2 frames"):
        model(input_ids=builders.prompt(9, slots=(1, 2, 5)), token_slots=True, **inputs(2))


def test_too_long_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="46 tokens with 20 frames, but max_sequence_length=40"):
        builders.small_model(max_sequence_length=40)(input_ids=builders.prompt(7), **inputs(20))


def test_mistakes_are_named() -> None:
    model, ids = builders.small_model(), builders.prompt(9)
    with pytest.raises(ValueError, match="guide_ids"):
        model(input_ids=ids, **builders.fields(builders.media(2)))
    with pytest.raises(ValueError, match="2 frames for"):
        model(input_ids=ids, **{**inputs(2), "frame_counts": torch.tensor([3])})
    with pytest.raises(ValueError, match="2 guide_ids, 2 guide_mask and 1 view_media"):
        model(input_ids=ids, **builders.fields(builders.media(2)), **builders.guides(5, 4))


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = builders.small_model()
        prepare_stage(model, "instruction")
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        ids = builders.prompt(9)
        model(input_ids=ids, labels=ids.where(ids > 0, -100), **inputs()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("stage", ["alignment", "instruction", "long_video"])
def test_a_stage_trains_its_parameters(stage: Stage) -> None:
    model = builders.small_model()
    trained = prepare_stage(model, stage)
    ids = builders.prompt(9)
    model.train()
    model(input_ids=ids, labels=ids.where(ids > 0, -100), **inputs()).loss.backward()
    assert trained and not any(name.startswith("model.tower.") for name in trained)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    with pytest.raises(ValueError, match="stage='fourth'"):
        prepare_stage(model, "fourth")  # type: ignore[arg-type]


def test_the_loss_falls() -> None:
    model = builders.small_model()
    prepare_stage(model, "instruction")
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = builders.prompt(9)
    losses = []
    for _ in range(15):
        loss = model(input_ids=ids, labels=ids.where(ids > 0, -100), **inputs()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_loading(tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    model = builders.small_model(
        text_config={
            **builders.small_config().text_config.to_dict(),
            "hidden_size": 64,
            "intermediate_size": 128,
            "head_dim": 16,
        }
    )
    model.save_pretrained(tmp_path)
    skip = ["model.tower", "model.qformer", "model.image_proj", "model.frame_tokens", "lm_head"]
    quantization = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, llm_int8_skip_modules=skip)
    loaded = LlamaVidForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantization)
    with torch.no_grad():
        given = {"input_ids": builders.prompt(9), **inputs()}
        quantised, exact = loaded(**given).logits, model(**given).logits
    assert torch.nn.functional.cosine_similarity(quantised.flatten(), exact.flatten(), dim=0) > 0.9
