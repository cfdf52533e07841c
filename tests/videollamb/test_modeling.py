"""The model as a citizen of ``transformers``, and what corrected semantics promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from longvu_model import VideoLLaMBConfig, VideoLLaMBForConditionalGeneration
from longvu_model.checkpoint_files import CheckpointError
from longvu_model.videollamb import official
from longvu_model.videollamb.compression import Recurrence, compress
from longvu_model.videollamb.sight import Media
from tests.videollamb.builders import MEM, fields, media, prompt, small_model

VARIANTS = {"base": {}, "mem": MEM, "no_retrieval": {**MEM, "retrieval": False}}


def logits(model: VideoLLaMBForConditionalGeneration, given: Media | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=prompt(12), **fields(given or media(16))).logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_save_and_load(variant: str, tmp_path: Path) -> None:
    model = small_model(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), VideoLLaMBConfig)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_layout_both_ways(variant: str, tmp_path: Path) -> None:
    model = small_model(**VARIANTS[variant])
    official.export(model, tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = VideoLLaMBForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    names = set().union(*(load_file(path) for path in tmp_path.glob("*.safetensors")))
    assert "model.mm_projector.projector.memory_tokens" in names, "unused tensors are written too"
    assert "model.image_tower.image_tower.encoder.layers.2.self_attn.q_proj.weight" in names
    (tmp_path / "model-extra.safetensors").unlink(missing_ok=True)
    torch.save({"model.extra": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError):
        VideoLLaMBForConditionalGeneration.from_pretrained(tmp_path)


def test_a_published_checkpoint_computes_as_published(tmp_path: Path) -> None:
    official.export(small_model(semantics="published"), tmp_path)
    config = official.load(tmp_path).config
    assert config.rules.whole_windows_only and config.prompt_style == "llava_v1"
    assert small_model().config.prompt_style == "vicuna_v1"


def test_gradient_checkpointing_changes_nothing_and_half_precision_runs() -> None:
    model, ids, given = small_model(), prompt(12), fields(media(16))
    labels = torch.where(ids < 0, -100, ids)
    expected = model(input_ids=ids, labels=labels, **given).loss
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = model(input_ids=ids, labels=labels, **given).loss
    assert torch.allclose(loss, expected)
    loss.backward()
    assert model.model.bridge.first_memory.grad is not None
    assert all(one.grad is None for one in model.model.towers.parameters())
    halved = small_model().to(torch.bfloat16)
    assert bool(halved(input_ids=ids, labels=labels, **given).loss.isfinite())


def test_quantised_loading(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    small_model().save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        load_in_8bit=True, llm_int8_skip_modules=["model.towers", "model.bridge", "lm_head"]
    )
    try:
        model = VideoLLaMBForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantisation)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"bitsandbytes does not work here: {error}")
    assert "int8" in str(next(model.model.language_model.layers.parameters()).dtype)


def test_rows_and_batch_agree() -> None:
    """Videos of any length, padded and windowed by themselves; images between them."""
    model = small_model()
    lengths = (16, 5, 1, 11)
    given = media(*lengths, images=(2,))
    together = compress(model.model.bridge, model.config, model.model.features(given), given.frame_counts)
    start = 0
    for i, length in enumerate(lengths):
        assert given.pixel_values is not None
        part = Media(
            given.frame_counts[i : i + 1], given.is_video[i : i + 1], given.pixel_values[start : start + length]
        )
        alone = model.model.encode(part).visual
        first = int(together.counts_V[:i].sum())
        mine = together.embeds_LC[first : first + int(together.counts_V[i])]
        assert torch.allclose(mine, alone.embeds_LC, atol=1e-4), i
        start += length
    with pytest.raises(ValueError, match="a multiple of 8 is needed"):
        small_model(semantics="published").model.encode(media(5))


def test_generation_of_rows_and_batch_agree() -> None:
    model, given = small_model(), media(16, 8)
    ids = torch.cat([prompt(12), prompt(12, seed=1)])
    together = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0, **fields(given))
    assert given.pixel_values is not None
    one = Media(torch.tensor([8]), torch.tensor([True]), given.pixel_values[16:])
    encoded = model.encode_video(one)
    alone = model.generate(ids[1:], max_new_tokens=5, do_sample=False, pad_token_id=0, encoded=encoded)
    assert torch.equal(together[1:], alone)


def test_per_scene_loss_is_one_mean_over_the_sequences_of_all_scenes() -> None:
    model = small_model(per_scene_loss=True)
    ids = torch.cat([prompt(12), prompt(12, seed=1)])
    labels = torch.where(ids < 0, -100, ids)
    given = media(16, 2)  # four scenes, and two: the second row is in two of the four batches
    loss = model(input_ids=ids, labels=labels, **fields(given)).loss
    visual = model.model.encode(given).visual
    assert [len(tokens) for tokens in visual.scene_tokens_V] == [4, 2]
    total, count = torch.zeros(()), 0
    for row, tokens in enumerate(visual.scene_tokens_V):
        for shown in tokens:
            embeds = model.get_input_embeddings()(ids[row].clamp(min=0))
            sequence = torch.cat([embeds[:3], shown, embeds[4:]])
            targets = torch.cat([labels[row, :3], torch.full((len(shown),), -100), labels[row, 4:]])
            scores = model(inputs_embeds=sequence[None]).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(scores, targets[1:], ignore_index=-100, reduction="sum")
            count += int((targets[1:] != -100).sum())
    assert torch.allclose(loss, total / count, atol=1e-5)


def test_kinds_of_media_and_places_must_agree() -> None:
    with pytest.raises(ValueError, match=r"media are \['video'\], the text has places for \['image'\]"):
        small_model()(input_ids=prompt(12, image=True), **fields(media(8)))
    with pytest.raises(ValueError, match="no media input"):
        small_model()(input_ids=prompt(12), frame_counts=torch.tensor([8]), is_video=torch.tensor([True]))


def test_a_bounded_cache_lets_go_of_what_is_most_like_its_successor() -> None:
    model = small_model()
    scenes = [torch.randn(4, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1, 1, 2)]
    bounded, unbounded = (Recurrence(model.model.bridge, model.config, most) for most in (3, None))
    with torch.no_grad():
        for tokens in scenes:
            assert bounded.add(tokens).shape == unbounded.add(tokens).shape
    assert (bounded.num_cached, unbounded.num_cached) == (9, 12)
