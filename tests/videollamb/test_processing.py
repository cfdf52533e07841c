"""Messages to model inputs, and the pixels of the towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from longvu_model import VideoLLaMBProcessor
from longvu_model.config import IMAGE_TOKEN_INDEX
from longvu_model.labels import read_turns
from longvu_model.presets import TINY_VOCABULARY
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.videollamb.config import CORRECTED, VIDEO_TOKEN_INDEX
from longvu_model.videollamb.presets import tiny_videollamb
from longvu_model.videollamb.prompts import label_turns, place_markers
from longvu_model.videollamb.tower_pixels import flipped, image_pixels

FRAMES = np.random.default_rng(0).integers(0, 256, (20, 60, 80, 3), dtype=np.uint8)
PICTURE = Image.fromarray(FRAMES[0])


@pytest.fixture(scope="module")
def processor() -> VideoLLaMBProcessor:
    return VideoLLaMBProcessor.from_config(tiny_videollamb(), build_tiny_tokenizer("vicuna_v1", TINY_VOCABULARY))


def test_messages_become_inputs(processor: VideoLLaMBProcessor, tmp_path: Path) -> None:
    content = [
        {"type": "video", "video": FRAMES},
        {"type": "image", "image": PICTURE},
        {"type": "text", "text": "Two?"},
    ]
    messages = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    ids = inputs["input_ids"][0].tolist()
    assert [one for one in ids if one < 0] == [VIDEO_TOKEN_INDEX, IMAGE_TOKEN_INDEX]
    assert processor.decode(ids).endswith("USER: <video>\n<image>\nTwo? ASSISTANT:")
    assert inputs["pixel_values"].shape == (21, 3, 96, 96)
    assert inputs["frame_counts"].tolist() == [20, 1] and inputs["is_video"].tolist() == [True, False]
    assert torch.equal(inputs["pixel_values"][20], image_pixels(torch.from_numpy(FRAMES[0]), 96))
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=True, return_dict=True)
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)


def test_prompts_with_markers_of_both_kinds(processor: VideoLLaMBProcessor) -> None:
    inputs = processor(text=["<video>\nA?", "<image>\nB?"], videos=[FRAMES], images=[PICTURE])
    slots = [[one for one in row if one < 0] for row in inputs["input_ids"].tolist()]
    assert slots == [[VIDEO_TOKEN_INDEX], [IMAGE_TOKEN_INDEX]]
    written = processor.apply_chat_template([{"role": "user", "content": "what is <video>?"}], tokenize=True)
    assert not bool((written < 0).any()), "a user's own words are no place for a medium"


def test_published_videos_are_whole_windows() -> None:
    config = tiny_videollamb()
    config.semantics = "published"
    processor = VideoLLaMBProcessor.from_config(config, build_tiny_tokenizer("vicuna_v1", TINY_VOCABULARY))
    medium = processor.video_processor.load(FRAMES[:5])
    assert len(medium.frames) == 16
    assert np.array_equal(medium.frames[0], FRAMES[0]) and np.array_equal(medium.frames[-1], FRAMES[4])


def test_the_flip_is_asked_for_by_name() -> None:
    clip = torch.arange(6.0).view(1, 1, 2, 3)
    tossed = {tuple(flipped(clip, torch.Generator().manual_seed(seed)).flatten().tolist()) for seed in range(8)}
    assert tossed == {tuple(clip.flatten().tolist()), tuple(clip.flip(-1).flatten().tolist())}


def test_corrected_labels_are_the_answers_and_their_ends(processor: VideoLLaMBProcessor) -> None:
    turns = read_turns(
        [
            {"from": "human", "value": "Dogs?\n<video>"},
            {"from": "gpt", "value": "Two."},
            {"from": "human", "value": "Cats?"},
            {"from": "gpt", "value": "One."},
        ]
    )
    labelled = label_turns(place_markers(turns), processor.tokenizer, CORRECTED)
    learned = [label for label in labelled.labels if label != -100]
    assert processor.tokenizer.decode(learned) == " Two.</s> One.</s>"
    assert labelled.input_ids.count(VIDEO_TOKEN_INDEX) == 1
