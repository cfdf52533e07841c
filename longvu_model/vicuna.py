"""Conversations as the LLaVA line of models writes them: templates, prompts, and which tokens are learned.

VideoLLaMB and LLaMA-VID share all of it (SEMANTICS sections 10 and 6). A conversation is one text in which roles are
words and only the end of an answer is a special token, so labels are found by counting the tokens of its rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from longvu_model.config import IGNORE_INDEX
from longvu_model.labels import LabelledIds, Turn
from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER, media_chat_template

_LOGGER = logging.getLogger(__name__)

STOP_STRING = "</s>"
# How the release tells an answer from its question.
_ANSWER_OPENING = " ASSISTANT: "

Tokenize = Callable[[str], list[int]]
"""Token ids of a text with BOS in front and slots in place."""


@dataclass(frozen=True)
class Template:
    """How a conversation is written.

    ``kind`` two: turns end in ``sep`` and ``sep2`` by turns; single: all in ``sep``; plain: texts alone; llama_2:
    instructions in brackets.
    """

    system: str
    roles: tuple[str, str]
    kind: Literal["two", "single", "plain", "llama_2"]
    sep: str
    sep2: str | None = None


_HELPFUL = "gives helpful, detailed, and polite answers to the {0}'s questions."
_SYSTEM = "A chat between a curious {0} and an artificial intelligence assistant. The assistant " + _HELPFUL
_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_VICUNA = Template(_SYSTEM.format("user"), ("USER", "ASSISTANT"), "two", " ", STOP_STRING)

TEMPLATES = {
    "vicuna_v1": _VICUNA,
    "v1": _VICUNA,
    "imgsp_v1": _VICUNA,
    "llava_v1": Template(_SYSTEM.format("human"), ("USER", "ASSISTANT"), "two", " ", STOP_STRING),
    "llava_v0": Template(_SYSTEM.format("human"), ("Human", "Assistant"), "single", "###"),
    "plain": Template("", ("", ""), "plain", "\n"),
    "plain_guided": Template("", ("", ""), "plain", "\n"),
    "llava_llama_2": Template(_LLAMA_2_SYSTEM, ("USER", "ASSISTANT"), "llama_2", "<s>", STOP_STRING),
    "mistral_instruct": Template("", ("USER", "ASSISTANT"), "llama_2", "", STOP_STRING),
}


def template(style: str) -> Template:
    """The template of that name; ``ValueError`` names those that there are."""
    if style not in TEMPLATES:
        raise ValueError(f"prompt style {style!r}: use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[style]


def render(style: str, turns: Sequence[str | None], system: str | None = None) -> str:
    """The text of a conversation.

    Args:
        turns: user and assistant texts in turn, the user first; an empty or ``None`` last one is the answer to be
            generated.
        system: instead of the template's.

    Raises:
        ValueError: unknown style, or an open turn before the last.
    """
    rule = template(style)
    if not all(turns[:-1]):
        raise ValueError(
            f"turn {[bool(turn) for turn in turns].index(False)} of {len(turns)} is empty: only the last may be"
        )
    opening = rule.system if system is None else system
    if rule.kind == "llama_2":
        return _render_llama_2(rule, turns, opening)
    if rule.kind == "plain":
        return "".join(f"{turn}{rule.sep}" for turn in turns if turn)
    ends = (rule.sep, rule.sep2 or rule.sep)
    text = opening + rule.sep
    for i, turn in enumerate(turns):
        text += f"{rule.roles[i % 2]}: {turn}{ends[i % 2]}" if turn else f"{rule.roles[i % 2]}:"
    return text


def _render_llama_2(rule: Template, turns: Sequence[str | None], system: str) -> str:
    text = ""
    for i, turn in enumerate(turns):
        if i == 0 and system:
            turn = f"<<SYS>>\n{system}\n<</SYS>>\n\n{turn or ''}"
        if turn:
            text += f" {turn} {rule.sep2}" if i % 2 else f"{rule.sep}[INST] {turn} [/INST]"
    return text.removeprefix(rule.sep)


def opening_rounds(turns: Sequence[Turn]) -> tuple[str | None, list[str]]:
    """The system text, if a conversation begins with one, and its user and assistant texts in turn.

    A first turn of the assistant is dropped, as in the releases.

    Raises:
        ValueError: no turn is left, or one speaks twice in a row.
    """
    system = turns[0].text if turns and turns[0].role == "system" else None
    body = list(turns[1:]) if turns and turns[0].role != "user" else list(turns)
    if not body:
        raise ValueError("conversation without a user turn: nothing to learn from")
    for i, turn in enumerate(body):
        expected = ("user", "assistant")[i % 2]
        if turn.role != expected:
            raise ValueError(f"turn {i} is the {turn.role}'s, expected the {expected}'s: speakers must take turns")
    return system, [turn.text for turn in body]


def place_markers(turns: Sequence[Turn], wrapped: str = "{0}") -> list[Turn]:
    """One marker of its kind in front of each turn that has one anywhere, followed by a line break.

    Args:
        wrapped: what a video's marker is put into, such as ``<vi_start>{0}<vi_end>``.
    """
    placed = []
    for turn in turns:
        text = turn.text
        for marker, form in ((VIDEO_MARKER, wrapped), (IMAGE_MARKER, "{0}")):
            if marker in text:
                text = f"{form.format(marker)}\n{text.replace(marker, '').strip()}".strip()
        placed.append(Turn(turn.role, text))
    return placed


def label_rounds(text: str, tokenize: Tokenize, *, pad_id: int, bos_per_round: bool = True) -> LabelledIds:
    """Ids and published labels of a rendered conversation.

    The text is cut behind each ``</s>`` into rounds. A round's BOS stands for its ``</s>`` in the count of its tokens,
    and its question with ``ASSISTANT: `` counts for two tokens less. Where the sum is not the number of ids that are
    no padding, nothing is learned, with a warning.

    Args:
        pad_id: the release's padding, the unknown token.
        bos_per_round: whether later rounds count one token as the first does; false for tokenizers that are not in
            legacy mode, where the text after a special token has no space in front.
    """
    ids = tokenize(text)
    labels = list(ids)
    cursor = 1
    labels[:cursor] = [IGNORE_INDEX]
    for i, part in enumerate(text.split(STOP_STRING)):
        halves = part.split(_ANSWER_OPENING)
        if len(halves) != 2:
            break
        correction = int(i > 0 and not bos_per_round)
        instruction = len(tokenize(halves[0] + _ANSWER_OPENING)) - 2 - correction
        labels[cursor : cursor + instruction] = [IGNORE_INDEX] * len(labels[cursor : cursor + instruction])
        cursor += len(tokenize(part)) - correction
    labels[cursor:] = [IGNORE_INDEX] * len(labels[cursor:])
    num_real = sum(one != pad_id for one in ids)
    if cursor != num_real:
        _LOGGER.warning("%d tokens counted in the rounds of a conversation of %d: it is not learned", cursor, num_real)
        labels = [IGNORE_INDEX] * len(ids)
    return LabelledIds(ids, labels)


def label_answers(style: str, turns: Sequence[str], tokenize: Tokenize, system: str | None = None) -> LabelledIds:
    """Ids of a conversation and labels of what has to be generated: each answer and the token that ends it.

    Args:
        turns: user and assistant texts in turn.

    Raises:
        ValueError: unknown style, or a tokenizer that joins the end of a prompt with the beginning of its answer.
    """
    ids = tokenize(render(style, turns, system))
    labels = [IGNORE_INDEX] * len(ids)
    for i in range(1, len(turns), 2):
        prompt = tokenize(render(style, [*turns[:i], None], system))
        told = tokenize(render(style, turns[: i + 1], system))
        if ids[: len(prompt)] != prompt or ids[: len(told)] != told:
            raise ValueError(
                f"answer {i // 2}: the tokenizer does not keep prompt and answer apart, it fits no {style}"
            )
        labels[len(prompt) : len(told)] = ids[len(prompt) : len(told)]
    return LabelledIds(ids, labels)


def chat_template(style: str, video_marker: str = IMAGE_MARKER) -> str:
    """Jinja for messages with content parts.

    Raises:
        ValueError: unknown style, or one that is no chat.
    """
    rule = template(style)
    if rule.kind not in ("two", "single"):
        raise ValueError(f"prompt style {style!r} is no chat: use one of vicuna_v1, llava_v1, llava_v0")
    user, assistant = rule.roles
    string_template = f"""\
{{%- for message in messages -%}}
    {{%- if message['role'] == 'system' -%}}
        {{{{- message['content'] + '{rule.sep}' -}}}}
    {{%- elif message['role'] == 'user' -%}}
        {{{{- '{user}: ' + message['content'] + '{rule.sep}' -}}}}
    {{%- else -%}}
        {{{{- '{assistant}: ' + message['content'] + '{rule.sep2 or rule.sep}' -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
    {{{{- '{assistant}:' -}}}}
{{%- endif -%}}
"""
    return media_chat_template(string_template, rule.system, video_marker)
