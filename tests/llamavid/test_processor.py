"""Messages and media to model inputs, and a checkpoint folder as users load it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from longvu_model import LlamaVidConfig, LlamaVidForConditionalGeneration, LlamaVidModel, LlamaVidProcessor
from longvu_model.llamavid import official
from longvu_model.presets import build_preset, preset_config, preset_names

VIDEO = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def processor(tiny: Path) -> LlamaVidProcessor:
    return LlamaVidProcessor.from_pretrained(tiny)


def conversation() -> list[dict[str, object]]:
    return [
        {"role": "user", "content": [{"type": "video", "video": VIDEO}, {"type": "text", "text": "What is\nthis?"}]},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Which colour does <image> have?"},
    ]


def test_the_medium_stands_in_front_of_the_newest_question(processor: LlamaVidProcessor) -> None:
    prompt = processor.apply_chat_template(conversation())
    assert prompt.endswith(
        "USER: What is\nthis? ASSISTANT: A square.</s>USER: <image>\nWhich colour does <image> have? ASSISTANT:"
    )
    assert prompt.startswith("A chat between a curious user and")


def test_the_question_guides_without_line_breaks(processor: LlamaVidProcessor) -> None:
    inputs = processor.apply_chat_template([conversation(), conversation()[:1]], tokenize=True, return_dict=True)
    assert (inputs["input_ids"] == -200).sum(1).tolist() == [1, 1]  # what a text calls <image> is no slot
    assert inputs["frame_counts"].tolist() == [5, 5] and inputs["pixel_values"].shape == (10, 3, 96, 96)
    texts = [
        processor.guide_tokenizer.decode(ids[mask])
        for ids, mask in zip(inputs["guide_ids"], inputs["guide_mask"], strict=True)
    ]
    assert "colour does" in texts[0] and texts[1] == "[CLS] what isthis? [SEP]"


def test_the_end_of_a_long_question_survives(processor: LlamaVidProcessor) -> None:
    inputs = processor.guide_inputs(["What is red? " * 100 + "Where is the cat?"])
    assert inputs["guide_ids"].shape == (1, processor.guide_length)
    assert processor.guide_tokenizer.decode(inputs["guide_ids"][0]).startswith("[CLS]")
    assert processor.guide_tokenizer.decode(inputs["guide_ids"][0]).endswith("where is the cat? [SEP]")


def test_prompts_with_guides(processor: LlamaVidProcessor) -> None:
    inputs = processor(text="<image>\nWhat?", videos=VIDEO, guides="What?")
    assert inputs["guide_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="2 guides for 1 media"):
        processor(text="<image>\nWhat?", videos=VIDEO, guides=["a", "b"])


def test_pictures_are_padded_and_frames_cropped(processor: LlamaVidProcessor) -> None:
    wide = Image.new("RGB", (200, 100), (255, 0, 0))
    picture = processor(images=wide)["pixel_values"]
    frames = processor(videos=[wide])["pixel_values"]
    assert picture[0, 0, 0, 48] < 0.1 < frames[0, 0, 0, 48]  # above the picture: padding, and the picture itself


def test_auto_classes(tiny: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(tiny), LlamaVidConfig)
    assert isinstance(AutoModel.from_pretrained(tiny), LlamaVidModel)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tiny), LlamaVidForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tiny), LlamaVidProcessor)


def test_a_published_checkpoint_answers_as_ours(tiny: Path, tmp_path: Path) -> None:
    model = LlamaVidForConditionalGeneration.from_pretrained(tiny)
    official.export(model, tmp_path, max_shard_size="1MB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, tmp_path)
    with pytest.raises(FileNotFoundError, match="put the files of bert-base-uncased there"):
        LlamaVidProcessor.from_pretrained(tmp_path / "")
    shutil.copytree(tiny / "guide_tokenizer", tmp_path / "guide_tokenizer")
    answers = []
    for folder in (tiny, tmp_path):
        loaded, processor = (
            cls.from_pretrained(folder) for cls in (LlamaVidForConditionalGeneration, LlamaVidProcessor)
        )
        inputs = processor.apply_chat_template(conversation(), tokenize=True, return_dict=True)
        answers.append(loaded.generate(**inputs, max_new_tokens=8, do_sample=False).tolist())
    assert answers[0] == answers[1] and len(answers[0][0]) == 8


def test_presets(tmp_path: Path) -> None:
    for name in ("tiny_llamavid", "llamavid_7b", "llamavid_13b", "llamavid_7b_long", "llamavid_7b_image_336"):
        assert name in preset_names() and preset_config(name).model_type == "llamavid"
    long = preset_config("llamavid_7b_long")
    assert long.text_config.rope_parameters["factor"] == 16 and long.max_sequence_length == 65536
    with torch.device("meta"):
        parameters = sum(p.numel() for p in LlamaVidForConditionalGeneration(preset_config("llamavid_7b")).parameters())
    assert parameters == 7_941_388_160
    with pytest.raises(ValueError, match="configuration only"):
        build_preset("llamavid_7b", tmp_path)
    with pytest.raises(ValueError, match="same for all stages"):
        build_preset("tiny_llamavid", tmp_path, stage="image")
