"""VideoLLaMB behind the common interface: watched once, asked often, recalled from a store."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from longvu_model.presets import build_preset
from longvu_model.video.frames import FrameBlock
from longvu_model.videollamb import official
from pipelines.video_models import PromptTooLong, load_video_model
from pipelines.video_models.videollamb import VideoLLaMB

FRAMES = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
BLOCK = FrameBlock(FRAMES, np.arange(20), np.arange(20) / 2)


def ask(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_preset("tiny_videollamb", tmp_path_factory.mktemp("presets") / "tiny_videollamb")


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoLLaMB:
    loaded = load_video_model(folder)
    assert isinstance(loaded, VideoLLaMB) and loaded.family == "videollamb" and len(loaded.digest) == 32
    return loaded


def test_a_prompt_is_what_the_model_itself_sees(model: VideoLLaMB) -> None:
    watched = model.watch(BLOCK)
    prompt = model.prompt(ask("What?"), [watched])
    inputs = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": "What?"}]}],
        tokenize=True,
        return_dict=True,
    )
    media = {name: inputs[name] for name in ("frame_counts", "is_video", "pixel_values")}
    generated = model.model.generate(inputs["input_ids"], max_new_tokens=4, **media)
    assert torch.equal(model.model.generate(inputs_embeds=prompt.embeds[None], max_new_tokens=4), generated)
    assert prompt.visual_tokens == len(watched.tokens_LC) and prompt.regime == "scenes"
    assert len(prompt) == prompt.visual_tokens + prompt.text_tokens
    assert set(prompt.kept_times_s[0]) <= set((np.arange(20) / 2).tolist())


def test_every_question_about_a_video_has_the_same_prefix(model: VideoLLaMB) -> None:
    watched = pickle.loads(pickle.dumps(model.watch(BLOCK)))
    first, second = (model.prompt(ask(text), [watched]) for text in ("What?", "Who is on the left?"))
    assert first.prefix_key == second.prefix_key is not None
    assert first.prefix_length == second.prefix_length > first.visual_tokens
    assert torch.equal(first.embeds[: first.prefix_length], second.embeds[: first.prefix_length])
    other = model.prompt(ask("What?"), [model.watch(BLOCK)])
    assert other.prefix_key != first.prefix_key


def test_images_text_alone_and_prompts_that_are_too_long(model: VideoLLaMB) -> None:
    picture = model.watch(FrameBlock(FRAMES[:1], np.zeros(1, np.int64), np.zeros(1)), kind="image")
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert model.prompt(message, [picture]).visual_tokens == 36
    assert model.prompt([{"role": "user", "content": "Hello"}]).regime == "text"
    with pytest.raises(ValueError, match="places for"):
        model.prompt(ask("What?"), [picture])
    with pytest.raises(PromptTooLong):
        model.prompt(ask("word " * 2000), [model.watch(BLOCK)])


def test_a_published_checkpoint_is_known_by_its_projector(model: VideoLLaMB, folder: Path, tmp_path: Path) -> None:
    official.export(model.model, tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    published = load_video_model(tmp_path)
    assert isinstance(published, VideoLLaMB)
    assert torch.equal(published.watch(BLOCK).tokens_LC, model.watch(BLOCK).tokens_LC)
