"""Training conversations: slots, guiding texts and labels (SEMANTICS section 6).

Every user turn of a conversation about a picture looks at it anew, guided by its own text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from longvu_model.labels import LabelledIds, Turn
from longvu_model.llama_tokenizer import tokenize_by_parts
from longvu_model.llamavid.semantics import Semantics
from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER, join_at_slots, unescape_markers
from longvu_model.vicuna import label_answers, label_rounds, opening_rounds, place_markers, render


@dataclass(frozen=True)
class GuidedText:
    """A sample's ids and labels, and what guides the eye at each user turn."""

    text: LabelledIds
    guides: list[str]


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text, BOS in front, with ``IMAGE_TOKEN_INDEX`` for each ``<image>``."""
    pieces = [tokenize_by_parts(unescape_markers(piece), tokenizer) for piece in text.split(IMAGE_MARKER)]
    return join_at_slots(pieces, tokenizer.bos_token_id)


def guide_of(text: str) -> str:
    """What a user's text asks the eye for: the text without markers and line breaks."""
    for marker in (IMAGE_MARKER, VIDEO_MARKER, "\n"):
        text = text.replace(marker, "")
    return text


def place_slots(turns: Sequence[Turn], rng: random.Random) -> list[Turn]:
    """One ``<image>`` in front of each user turn that has a marker, and in every later one.

    Where a later turn has none, a coin decides whether it goes in front or behind: heads (0) in front.
    """
    placed, seen = [], False
    for turn in place_markers([Turn(t.role, t.text.replace(VIDEO_MARKER, IMAGE_MARKER)) for t in turns]):
        text = turn.text
        if turn.role == "user" and seen and IMAGE_MARKER not in text:
            text = f"{text}\n{IMAGE_MARKER}" if rng.randint(0, 1) else f"{IMAGE_MARKER}\n{text}"
        seen = seen or IMAGE_MARKER in text
        placed.append(Turn(turn.role, text))
    return placed


def label_caption(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> GuidedText:
    """A sample of the alignment stage: slot and caption, which is learned; the question only guides the eye.

    Raises:
        ValueError: not one question and its answer.
    """
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise ValueError(f"turns of {[turn.role for turn in turns]}: this stage learns one answer to one question")
    ids = tokenize(f"{IMAGE_MARKER}{turns[1].text}\n", tokenizer)
    start = ids.index(IMAGE_TOKEN_INDEX) + 1
    labels = [IGNORE_INDEX] * start + ids[start:]
    return GuidedText(LabelledIds(ids, labels), [guide_of(turns[0].text)])


def label_turns(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, style: str, rules: Semantics) -> GuidedText:
    """A sample of the instruction stages, whose slots are placed.

    Args:
        turns: as :func:`place_slots` or :func:`longvu_model.llamavid.long_video.training_turns` give them.
        style: template of the conversation.

    Raises:
        ValueError: unknown style, or no user turn.
    """
    system, texts = opening_rounds(turns)
    guides = [guide_of(text) for text in texts[::2]]
    if rules.labels_by_round_lengths:
        pad_id = tokenizer.pad_token_id
        text = render(style, texts)
        return GuidedText(label_rounds(text, lambda part: tokenize(part, tokenizer), pad_id=pad_id), guides)
    return GuidedText(label_answers(style, texts, lambda part: tokenize(part, tokenizer), system), guides)
