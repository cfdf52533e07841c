"""LLaMA-VID behind the common interface: features once, tokens per question, subtitles between frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longvu_model.llamavid.sight import EncodedMedia, Views
from longvu_model.presets import build_preset
from longvu_model.subtitles import Subtitle
from longvu_model.video.frames import FrameBlock
from pipelines.video_models import load_video_model
from pipelines.video_models.base import PromptTooLong
from pipelines.video_models.llamavid import LlamaVid, LlamaVidMedia


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaVid:
    folder = build_preset("tiny_llamavid", tmp_path_factory.mktemp("presets") / "tiny_llamavid")
    loaded = load_video_model(folder)
    assert isinstance(loaded, LlamaVid)
    return loaded


def watch(model: LlamaVid, frames: int) -> LlamaVidMedia:
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    return model.watch(FrameBlock(pixels, np.arange(frames), np.arange(frames, dtype=np.float64)))


def ask(question: str, **part: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "video", **part}, {"type": "text", "text": question}]}]


def test_prompt_is_what_the_model_sees(model: LlamaVid) -> None:
    medium = watch(model, 5)
    prompt = model.prompt(ask("Which colour?"), [medium])
    inputs = model.processor.apply_chat_template(ask("Which colour?"), tokenize=True, return_dict=True)
    with torch.no_grad():
        encoded = EncodedMedia(torch.tensor([5]), medium.features_FTD, stored=False)
        views = Views(inputs["guide_ids"], inputs["guide_mask"], torch.tensor([0]))
        expected = model.model.model.see(inputs["input_ids"], encoded, views).merged.inputs_embeds[0]
    assert torch.equal(prompt.embeds, expected)
    assert prompt.visual_tokens == 10 and prompt.kept_times_s == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    assert len(prompt) == prompt.text_tokens + 10 and prompt.prefix_key is None


def test_another_question_gets_other_tokens(model: LlamaVid) -> None:
    medium = watch(model, 3)
    first, again, other = (model.prompt(ask(text), [medium]) for text in ("Which?", "Which?", "Where?"))
    assert torch.equal(first.embeds, again.embeds)
    start = int((model.processor.apply_chat_template(ask("Which?"), tokenize=True)[0] == -200).nonzero()[0, 0])
    assert not torch.equal(first.embeds[start : start + 6], other.embeds[start : start + 6])


def test_frames_are_thinned_to_fit(model: LlamaVid) -> None:
    prompt = model.prompt(ask("Which colour?"), [watch(model, 1100)])
    assert len(prompt) <= model.max_length
    (times_s,) = prompt.kept_times_s
    assert 800 < len(times_s) < 1100 and times_s[0] == 0 and times_s[-1] > 1090
    with pytest.raises(PromptTooLong):
        model.prompt([{"role": "user", "content": "word " * 2100}])


def test_subtitles_stand_between_the_frames(model: LlamaVid) -> None:
    medium = watch(model, 4)
    said = [Subtitle(0.2, 0.9, "hello there"), Subtitle(2.1, 2.9, "good bye")]
    prompt = model.prompt(ask("Who speaks?", subtitles=said), [medium])
    plain = model.prompt(ask("Who speaks?"), [medium])
    assert prompt.visual_tokens == plain.visual_tokens == 8
    assert prompt.text_tokens > plain.text_tokens
    with pytest.raises(ValueError, match="only medium"):
        model.prompt([*ask("Who?", subtitles=said), {"role": "assistant", "content": "He."}], [medium])
