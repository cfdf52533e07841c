"""Prompts beyond the reference vectors: chat templates, content parts, slots, errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from longvu_model.prompts import (
    CHAT_TEMPLATES,
    STOP_STRINGS,
    drop_doubled_bos,
    escape_markers,
    media_chat_template,
    render_prompt,
    tokenize_with_slots,
)
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

TOKENIZERS = {style: build_tiny_tokenizer(style) for style in STOP_STRINGS}
STYLES = sorted(STOP_STRINGS)
# Any text but the signs that markers and special tokens are made of.
TEXTS = st.text(st.characters(exclude_characters="<|>", exclude_categories=["Cs"]), max_size=40)


def _render(style: str, messages: list[dict[str, Any]], **options: Any) -> str:
    template = options.pop("template", CHAT_TEMPLATES[style])
    return str(TOKENIZERS[style].apply_chat_template(messages, chat_template=template, tokenize=False, **options))


@pytest.mark.parametrize("style", STYLES)
@given(turns=st.lists(TEXTS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1))
def test_chat_template_is_the_published_prompt(style: str, turns: list[str]) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    published = render_prompt([*turns, None], style, TOKENIZERS[style])
    assert _render(style, messages, add_generation_prompt=True) == published


@pytest.mark.parametrize("style", STYLES)
def test_parts_read_as_their_text(style: str) -> None:
    parts = [{"type": "video"}, {"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    plain = _render(style, [{"role": "user", "content": "<image>\nWhat is this?"}])
    assert _render(style, [{"role": "user", "content": parts}]) == plain


@pytest.mark.parametrize("style", STYLES)
def test_media_stay_where_they_are_given(style: str) -> None:
    parts = [{"type": "text", "text": "First: "}, {"type": "image"}, {"type": "text", "text": "then: "}]
    prompt = _render(style, [{"role": "user", "content": [*parts, {"type": "video"}, {"type": "text", "text": "?"}]}])
    assert "First: <image>\nthen: <image>\n?" in prompt


@pytest.mark.parametrize("style", STYLES)
def test_own_system_message_replaces_the_usual_one(style: str) -> None:
    prompt = _render(style, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert "Be brief." in prompt
    assert "helpful" not in prompt


def test_a_plain_template_takes_parts() -> None:
    template = media_chat_template("{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}")
    prompt = _render("qwen", [{"role": "user", "content": [{"type": "image"}]}], template=template)
    assert prompt == "[system:You are a helpful assistant.][user:<image>\n]"


def test_unknown_part_is_named() -> None:
    with pytest.raises(TemplateError, match="content part of type audio: use text, image or video"):
        _render("qwen", [{"role": "user", "content": [{"type": "audio"}]}])


def test_final_message_can_be_continued() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is"}]
    assert _render("qwen", messages, continue_final_message=True).endswith("assistant\nIt is")


@pytest.mark.parametrize("style", STYLES)
def test_one_bos_in_front(style: str) -> None:
    tokenizer = TOKENIZERS[style]
    ids = drop_doubled_bos(tokenize_with_slots(render_prompt(["Hi", None], style, tokenizer), tokenizer), tokenizer)
    assert ids.count(tokenizer.bos_token_id) == (1 if style == "llama3" else 0)
    assert drop_doubled_bos(ids, tokenizer) == ids


def test_escaped_marker_is_text() -> None:
    tokenizer = TOKENIZERS["llama3"]
    text = escape_markers("is <image> a tag?")
    assert tokenize_with_slots(text, tokenizer) == tokenizer("is <image> a tag?").input_ids
    assert tokenize_with_slots("<image>" + text, tokenizer).count(-200) == 1


@pytest.mark.parametrize("style", ["llama3_2", "vicuna"])
def test_styles_without_a_prompt(style: str) -> None:
    with pytest.raises(ValueError, match=rf"prompt style '{style}': use one of \['llama3', 'qwen'\]"):
        render_prompt(["Hi"], style, TOKENIZERS["qwen"])


def test_only_the_last_turn_may_be_open() -> None:
    with pytest.raises(ValueError, match="turn 1 of 3 is None"):
        render_prompt(["Hi", None, "Hi"], "qwen", TOKENIZERS["qwen"])
