"""Prompts: the two published styles, media slots in token ids, stop strings and chat templates.

A medium is written as ``<image>`` in a prompt, whether it is a picture or a video, and becomes the single id
``IMAGE_TOKEN_INDEX``. :func:`render_prompt` is what the released scripts send to a checkpoint (SEMANTICS section 15);
:data:`CHAT_TEMPLATES` say the same in Jinja for messages with content parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from longvu_model.config import IMAGE_TOKEN_INDEX

SYSTEM_PROMPT = "You are a helpful assistant."
IMAGE_MARKER = "<image>"
VIDEO_MARKER = "<video>"
SLOTS: Mapping[str, int] = {IMAGE_MARKER: IMAGE_TOKEN_INDEX}
"""LongVU's markers and the ids they become; its siblings have one of their own for videos."""
# What a user's own "<image>" is written with until the slots are found; a private-use sign, so it is in no text.
_LITERAL = "\ue000"
STOP_STRINGS = {"qwen": "<|im_end|>", "llama3": "<|eot_id|>"}
ROLES = ("user", "assistant")


def check_style(style: str) -> None:
    """Raise ``ValueError`` unless ``style`` is one of the two that have a prompt."""
    if style not in STOP_STRINGS:
        known = "; the release lists llama3_2 too, but it produces no prompt" if style == "llama3_2" else ""
        raise ValueError(f"prompt style {style!r}: use one of {sorted(STOP_STRINGS)}{known}")


def render_prompt(
    turns: Sequence[str | None],
    style: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    bare_roles: bool = False,
) -> str:
    """The text of a conversation, ready to be answered.

    Args:
        turns: user and assistant texts in turn, the user first; a final ``None`` is the answer to be generated.
        style: "qwen" or "llama3".
        tokenizer: its own chat template renders the llama3 style; unused for qwen.
        bare_roles: qwen only, the released demo's prompt, which writes roles without ``<|im_start|>`` [Q19].

    Raises:
        ValueError: unknown style, or a ``None`` before the last turn.
    """
    check_style(style)
    if None in turns[:-1]:
        raise ValueError(f"turn {list(turns).index(None)} of {len(turns)} is None: only the last turn may be open")
    messages = [{"role": "system", "content": SYSTEM_PROMPT}]
    messages += [{"role": ROLES[i % 2], "content": turn} for i, turn in enumerate(turns) if turn is not None]
    if style == "llama3":
        # A header for the answer is added even after a closed assistant turn, as in the release.
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    opening = "" if bare_roles else "<|im_start|>"
    prompt = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
    prompt += "".join(f"{opening}{m['role']}\n{m['content']}<|im_end|>\n" for m in messages[1:])
    return prompt + f"{opening}assistant\n" if turns and turns[-1] is None else prompt


def join_at_slots(
    pieces: Sequence[Sequence[int]], bos_token_id: int | None, slot_ids: Sequence[int] | None = None
) -> list[int]:
    """Token ids of the pieces between slots, with a slot between each two and one BOS in front if the first has it.

    Args:
        slot_ids: of the slots in order; ``IMAGE_TOKEN_INDEX`` everywhere by default.
    """
    has_bos = bool(pieces) and bool(pieces[0]) and pieces[0][0] == bos_token_id
    ids = [bos_token_id] if has_bos and bos_token_id is not None else []
    for i, piece in enumerate(pieces):
        if i:
            ids.append(IMAGE_TOKEN_INDEX if slot_ids is None else slot_ids[i - 1])
        ids += piece[1:] if has_bos else piece
    return ids


def tokenize_with_slots(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_special_tokens: bool = True,
    slots: Mapping[str, int] = SLOTS,
) -> list[int]:
    """Token ids of ``text`` with an id of ``slots`` for each marker; the pieces between are tokenised apart.

    As in the release, a text that already begins with the BOS token gets a second one from the tokenizer;
    :func:`drop_doubled_bos` removes it. Markers hidden by :func:`escape_markers` are ordinary text.
    """
    parts = re.split(f"({'|'.join(map(re.escape, slots))})", text)
    pieces = [unescape_markers(piece) for piece in parts[::2]]
    ids = [tokenizer(piece, add_special_tokens=add_special_tokens).input_ids for piece in pieces]
    slot_ids = [slots[marker] for marker in parts[1::2]]
    return join_at_slots(ids, tokenizer.bos_token_id if add_special_tokens else None, slot_ids)


def escape_markers(text: str) -> str:
    """``text`` in which ``<image>`` and ``<video>`` stand for themselves, not for a medium."""
    for marker in (IMAGE_MARKER, VIDEO_MARKER):
        text = text.replace(marker, f"<{_LITERAL}{marker[1:]}")
    return text


def unescape_markers(text: str) -> str:
    """The text that :func:`escape_markers` was given."""
    return text.replace(f"<{_LITERAL}", "<")


def drop_doubled_bos(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``ids`` with a single BOS in front where the prompt's text and the tokenizer both wrote one."""
    doubled = len(ids) > 1 and tokenizer.bos_token_id is not None and ids[0] == ids[1] == tokenizer.bos_token_id
    return ids[1:] if doubled else ids


# Reduces messages with content parts to plain strings, so that any chat template written for strings can follow.
# A medium stands where it was given, each followed by a line break, as in training.
_FLATTEN_PARTS = """\
{%- set flat = namespace(messages=[]) -%}
{%- if not messages or messages[0]['role'] != 'system' -%}
    {%- set flat.messages = [{'role': 'system', 'content': SYSTEM_PROMPT}] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set text = namespace(value='') -%}
    {%- if message['content'] is string -%}
        {%- set text.value = message['content'] -%}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}
                {%- set text.value = text.value + part['text'] -%}
            {%- elif part['type'] == 'image' -%}
                {%- set text.value = text.value + '<image>\\n' -%}
            {%- elif part['type'] == 'video' -%}
                {%- set text.value = text.value + 'VIDEO_MARKER\\n' -%}
            {%- else -%}
                {{- raise_exception('content part of type ' + part['type'] + ': use text, image or video') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text.value}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""

_STRING_TEMPLATES = {
    "qwen": """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
""",
    "llama3": """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim -}}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
""",
}


def media_chat_template(string_template: str, system: str = SYSTEM_PROMPT, video_marker: str = IMAGE_MARKER) -> str:
    """A chat template for content parts from one for plain strings, such as a tokenizer's own.

    Args:
        system: put in front of messages without a system turn.
        video_marker: what a video is written as.
    """
    flatten = _FLATTEN_PARTS.replace("SYSTEM_PROMPT", json.dumps(system)).replace("VIDEO_MARKER", video_marker)
    return flatten + string_template


CHAT_TEMPLATES = {style: media_chat_template(template) for style, template in _STRING_TEMPLATES.items()}
