"""Which tokens of a training conversation are learned (SEMANTICS section 16.2).

Turns are rendered and tokenised one by one. Published labels learn whole assistant turns and, in every turn, the
markers that separate turns [Q20, Q21]; corrected labels learn what the assistant has to generate: its text and the
token that ends its turn.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from longvu_model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Semantics
from longvu_model.prompts import (
    IMAGE_MARKER,
    STOP_STRINGS,
    SYSTEM_PROMPT,
    VIDEO_MARKER,
    check_style,
    join_at_slots,
    unescape_markers,
)

# A constant of the release; the newline only in vocabularies ordered as Qwen2's.
QWEN_NEWLINE_ID = 198
# The release assumes that an assistant header has this many tokens.
LLAMA3_HEADER_TOKENS = 4
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; ``role`` is user, assistant or system."""

    role: str
    text: str


@dataclass(frozen=True)
class LabelledIds:
    """Token ids of a conversation and, of equal length, the label of each (``IGNORE_INDEX``: not learned)."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learnable(self) -> bool:
        """Whether any token is learned."""
        return any(label != IGNORE_INDEX for label in self.labels)


def read_turns(conversation: Sequence[Mapping[str, str]]) -> list[Turn]:
    """Turns from ``from``/``value`` (human, gpt) or ``role``/``content`` (user, assistant) records.

    Raises:
        ValueError: a record lacks a key or names an unknown speaker.
    """
    turns = []
    for i, record in enumerate(conversation):
        role, text = record.get("from", record.get("role")), record.get("value", record.get("content"))
        if role not in _ROLES or not isinstance(text, str):
            raise ValueError(
                f"turn {i} is {dict(record)!r}: it needs 'from' (one of {sorted(_ROLES)}) and 'value' (text)"
            )
        turns.append(Turn(_ROLES[role], text))
    return turns


def place_markers(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of a sample with a medium: one ``<image>`` in front of each turn that has a marker anywhere."""
    placed = []
    for turn in turns:
        text = turn.text
        if IMAGE_MARKER in text or VIDEO_MARKER in text:
            text = f"{IMAGE_MARKER}\n{text.replace(IMAGE_MARKER, '').replace(VIDEO_MARKER, '').strip()}"
        placed.append(Turn(turn.role, text))
    return placed


def label_turns(
    turns: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    rules: Semantics,
    *,
    has_medium: bool,
) -> LabelledIds:
    """Token ids and labels of a conversation.

    Args:
        turns: as :func:`place_markers` gives them. A first turn that is not the user's is dropped, but for a system
            turn under corrected semantics, which replaces the usual one.
        tokenizer: must know the style's turn markers as single tokens.
        style: "qwen" or "llama3".
        rules: ``unmask_markers_everywhere`` chooses published labels.
        has_medium: whether ``<image>`` is a slot; without a medium it is ordinary text, as is a marker hidden by
            :func:`longvu_model.prompts.escape_markers`.

    Raises:
        ValueError: unknown style, no turn left, or a tokenizer without the style's markers.
    """
    check_style(style)
    check_markers(tokenizer, style)
    system = Turn("system", SYSTEM_PROMPT)
    body = list(turns)
    if body and body[0].role != "user":
        system = body[0] if body[0].role == "system" and not rules.unmask_markers_everywhere else system
        body = body[1:]
    if not body:
        raise ValueError("conversation without a user turn: nothing to learn from")
    render = _published if rules.unmask_markers_everywhere else _corrected
    labelled = [render(turn, tokenizer, style, has_medium, first=i == 0) for i, turn in enumerate([system, *body])]
    return LabelledIds([i for part in labelled for i in part.input_ids], [i for part in labelled for i in part.labels])


def _published(
    turn: Turn, tokenizer: PreTrainedTokenizerBase, style: str, has_medium: bool, *, first: bool
) -> LabelledIds:
    header, body, end = _parts(turn, style)
    if style == "qwen":
        ids = _tokenize(header + body + end, tokenizer, has_medium)
        markers = {QWEN_NEWLINE_ID, *_ids_of(tokenizer, "<|im_start|>", "<|im_end|>")}
    else:
        answer_header = _parts(Turn("assistant", ""), style)[0]
        rendered = f"{tokenizer.bos_token}{header}{body}{end}{answer_header}"
        ids = _tokenize(rendered, tokenizer, has_medium)[0 if first else 1 : -LLAMA3_HEADER_TOKENS]
        markers = {
            tokenizer.bos_token_id,
            # Byte-level vocabularies spell the double newline otherwise, so the last is not found there [Q21].
            *_ids_of(tokenizer, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n"),
        }
    learned = [turn.role == "assistant" or i in markers for i in ids]
    return LabelledIds(ids, _mask(ids, learned))


def _corrected(
    turn: Turn, tokenizer: PreTrainedTokenizerBase, style: str, has_medium: bool, *, first: bool
) -> LabelledIds:
    header, body, end = _parts(turn, style)
    bos = tokenizer.bos_token if first and style == "llama3" else ""
    # Header and answer are tokenised apart, as they are when the answer is generated after the header.
    head = _fixed_ids(bos + header, tokenizer, len(tokenizer))
    answer = _tokenize(body + STOP_STRINGS[style], tokenizer, has_medium)
    tail = _fixed_ids(end.removeprefix(STOP_STRINGS[style]), tokenizer, len(tokenizer))
    ids = [*head, *answer, *tail]
    learned = [turn.role == "assistant" and len(head) <= i < len(head) + len(answer) for i in range(len(ids))]
    return LabelledIds(ids, _mask(ids, learned))


def _parts(turn: Turn, style: str) -> tuple[str, str, str]:
    """Header, text and end of a rendered turn."""
    if style == "qwen":
        return f"<|im_start|>{turn.role}\n", turn.text, "<|im_end|>\n"
    return f"<|start_header_id|>{turn.role}<|end_header_id|>\n\n", turn.text.strip(), "<|eot_id|>"


def _tokenize(text: str, tokenizer: PreTrainedTokenizerBase, has_medium: bool) -> list[int]:
    pieces = [unescape_markers(piece) for piece in (text.split(IMAGE_MARKER) if has_medium else [text])]
    return join_at_slots([tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces], None)


@functools.lru_cache(64)
def _fixed_ids(text: str, tokenizer: PreTrainedTokenizerBase, _size: int) -> tuple[int, ...]:
    """Ids of a text that is in every conversation: two of three calls of the tokenizer, which are most of the cost.

    Args:
        _size: of the vocabulary, which tells a tokenizer from itself with tokens added.
    """
    return tuple(_tokenize(text, tokenizer, has_medium=False))


def _mask(ids: Sequence[int], learned: Sequence[bool]) -> list[int]:
    """Labels of learned ids; a slot is never learned."""
    keep = [yes and i != IMAGE_TOKEN_INDEX for i, yes in zip(ids, learned, strict=True)]
    return [i if yes else IGNORE_INDEX for i, yes in zip(ids, keep, strict=True)]


def _ids_of(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> list[Any]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def check_markers(tokenizer: PreTrainedTokenizerBase, style: str) -> None:
    """Ensure that a tokenizer has the tokens of a chat style.

    Raises:
        ValueError: it has not.
    """
    known = tokenizer.get_added_vocab()
    needed = ["<|im_start|>", "<|im_end|>"]
    if style == "llama3":
        needed = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        if tokenizer.bos_token is None:
            raise ValueError("prompt style 'llama3' needs a tokenizer with a BOS token; this one has none")
    missing = [token for token in needed if token not in known]
    if missing:
        raise ValueError(f"the tokenizer has no token {', '.join(missing)}: it does not fit prompt style {style!r}")
