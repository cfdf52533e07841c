"""Prompts of VideoLLaMB (SEMANTICS section 10): which template is used where, its slots, and multiple choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from longvu_model import prompts, vicuna
from longvu_model.config import IMAGE_TOKEN_INDEX
from longvu_model.labels import LabelledIds, Turn
from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER
from longvu_model.videollamb.config import VIDEO_TOKEN_INDEX
from longvu_model.videollamb.semantics import Semantics

TRAINING_STYLE = "vicuna_v1"
ANSWERING_STYLE = "llava_v1"

SLOTS = {IMAGE_MARKER: IMAGE_TOKEN_INDEX, VIDEO_MARKER: VIDEO_TOKEN_INDEX}
VIDEO_START, VIDEO_END = "<vi_start>", "<vi_end>"


def tokenizer_with_slots(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """Text to token ids with BOS in front and a slot for each medium."""
    return lambda text: prompts.tokenize_with_slots(text, tokenizer, slots=SLOTS)


def place_markers(turns: Sequence[Turn], start_end: bool = False) -> list[Turn]:
    """Each turn's marker at its front; with ``start_end``, which no published model has, a video's is enclosed."""
    return vicuna.place_markers(turns, f"{VIDEO_START}{{0}}{VIDEO_END}" if start_end else "{0}")


def label_turns(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, rules: Semantics, style: str = TRAINING_STYLE
) -> LabelledIds:
    """Token ids and labels of a conversation whose markers are in place."""
    system, texts = vicuna.opening_rounds(turns)
    tokenize = tokenizer_with_slots(tokenizer)
    if not rules.labels_by_count:
        return vicuna.label_answers(style, texts, tokenize, system)
    legacy = getattr(tokenizer, "legacy", True)
    pad_id = tokenizer.unk_token_id
    return vicuna.label_rounds(vicuna.render(style, texts), tokenize, pad_id=pad_id, bos_per_round=legacy)


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question with lettered options and the published instruction."""
    lines = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([question, *lines, "Answer with the option's letter from the given choices directly."])
