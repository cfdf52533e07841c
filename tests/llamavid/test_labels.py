"""Training conversations under corrected semantics, and tokens watched block by block."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from longvu_model import LlamaVidForConditionalGeneration, LlamaVidProcessor
from longvu_model.config import IGNORE_INDEX
from longvu_model.labels import Turn
from longvu_model.llamavid.config import CORRECTED
from longvu_model.llamavid.labels import label_caption, label_turns, place_slots
from longvu_model.llamavid.long_video import training_turns
from longvu_model.llamavid.processing import tower_pixels
from longvu_model.llamavid.sight import Media, Views
from longvu_model.llamavid.watching import FrameWatcher
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

TURNS = [
    Turn("user", "What is this?\n<video>"),
    Turn("assistant", "A square."),
    Turn("user", "Which colour?"),
    Turn("assistant", "Red."),
]


def test_answers_and_their_ends_are_learned() -> None:
    tokenizer = build_tiny_tokenizer("vicuna_v1")
    labelled = label_turns(place_slots(TURNS, random.Random(0)), tokenizer, "imgsp_v1", CORRECTED)
    learned = [label for label in labelled.text.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(learned) == " A square.</s> Red.</s>"
    assert labelled.text.input_ids.count(-200) == 2
    assert labelled.guides == ["What is this?", "Which colour?"]


def test_captions_are_learned_and_the_question_only_guides() -> None:
    tokenizer = build_tiny_tokenizer("vicuna_v1")
    labelled = label_caption(TURNS[:2], tokenizer)
    learned = [label for label in labelled.text.labels if label != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "A square.\n" and labelled.guides == ["What is this?"]


def test_a_film_takes_the_place_of_its_marker() -> None:
    turns, guide = training_turns([Turn("user", "<image>\nWho?"), TURNS[1]], "<image>Oh...<image>", 2)
    assert turns[0].text == "<image><image>Oh<image><image>\nWho?" and guide == "Who?"


def test_blocks_give_the_tokens_of_all_frames_at_once(tiny: Path) -> None:
    model, processor = (cls.from_pretrained(tiny) for cls in (LlamaVidForConditionalGeneration, LlamaVidProcessor))
    frames = np.random.default_rng(0).integers(0, 256, (7, 24, 32, 3), dtype=np.uint8)
    guide = processor.guide_inputs(["Which colour?"])
    pixels = tower_pixels(processor.video_processor)
    watcher = FrameWatcher(model.model, pixels, guide["guide_ids"], guide["guide_mask"])
    for start in range(0, 7, 3):
        watcher.add(frames[start : start + 3])
    given = processor.video_processor.preprocess(frames)
    with torch.no_grad():
        views = Views(guide["guide_ids"], guide["guide_mask"], torch.tensor([0]))
        encoded = model.model.encode(Media(given["frame_counts"], pixel_values=given["pixel_values"]))
        expected = model.model.compress(encoded, views).embeds_LC
    assert watcher.num_frames == 7
    torch.testing.assert_close(watcher.tokens(), expected, rtol=1e-5, atol=1e-6)
