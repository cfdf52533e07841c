"""Labels: what is learned under corrected semantics, and what published ones add to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvu_model.config import CORRECTED, IGNORE_INDEX, IMAGE_TOKEN_INDEX, PUBLISHED, Semantics
from longvu_model.labels import LabelledIds, Turn, label_turns, place_markers, read_turns
from longvu_model.prompts import STOP_STRINGS, escape_markers, render_prompt, tokenize_with_slots
from longvu_model.tiny_tokenizer import build_tiny_tokenizer

TOKENIZERS = {style: build_tiny_tokenizer(style) for style in STOP_STRINGS}
STYLES = sorted(STOP_STRINGS)
TEXTS = st.text(st.characters(exclude_characters="<|>", exclude_categories=["Cs"]), max_size=30)
RULES = {"published": PUBLISHED, "corrected": CORRECTED}


def _label(turns: list[Turn], style: str, rules: Semantics, *, has_medium: bool = True) -> LabelledIds:
    return label_turns(turns, TOKENIZERS[style], style, rules, has_medium=has_medium)


def _dialogue(texts: list[str]) -> list[Turn]:
    return [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("style", STYLES)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6))
def test_corrected_labels_are_the_answers(style: str, texts: list[str]) -> None:
    labelled = _label(_dialogue(texts), style, CORRECTED)
    learned = [i for i in labelled.labels if i != IGNORE_INDEX]
    answers = [text.strip() if style == "llama3" else text for text in texts[1::2]]
    assert TOKENIZERS[style].decode(learned) == "".join(answer + STOP_STRINGS[style] for answer in answers)
    assert all(label in (IGNORE_INDEX, i) for i, label in zip(labelled.input_ids, labelled.labels, strict=True))


@pytest.mark.parametrize("style", STYLES)
@given(texts=st.lists(TEXTS, min_size=2, max_size=4))
def test_both_semantics_write_the_same_text_and_published_learns_more(style: str, texts: list[str]) -> None:
    published, corrected = (_label(_dialogue(texts), style, rules) for rules in (PUBLISHED, CORRECTED))
    assert TOKENIZERS[style].decode(published.input_ids) == TOKENIZERS[style].decode(corrected.input_ids)
    learned = [sum(label != IGNORE_INDEX for label in labelled.labels) for labelled in (published, corrected)]
    assert learned[0] > learned[1]


@pytest.mark.parametrize("style", STYLES)
def test_corrected_ids_continue_the_prompt(style: str) -> None:
    """What is learned follows exactly the ids that the model sees before it answers."""
    question, answer = "<image>\nWhat is this?", "\n\nA cat."
    labelled = _label([Turn("user", question), Turn("assistant", answer)], style, CORRECTED)
    prompt = render_prompt([question, None], style, TOKENIZERS[style])
    ids = tokenize_with_slots(prompt, TOKENIZERS[style], add_special_tokens=False)
    first = next(i for i, label in enumerate(labelled.labels) if label != IGNORE_INDEX)
    assert labelled.input_ids[:first] == ids


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("style", STYLES)
def test_slots_are_never_learned(style: str, rules: Semantics) -> None:
    labelled = _label([Turn("user", "<image>\nWhat?"), Turn("assistant", "A <image> here")], style, rules)
    slots = [i for i, token in enumerate(labelled.input_ids) if token == IMAGE_TOKEN_INDEX]
    assert len(slots) == 2
    assert all(labelled.labels[i] == IGNORE_INDEX for i in slots)


@pytest.mark.parametrize("style", STYLES)
def test_marker_is_text_without_a_medium(style: str) -> None:
    turns = [Turn("user", "What is <image>?"), Turn("assistant", "A tag.")]
    labelled = _label(turns, style, CORRECTED, has_medium=False)
    assert IMAGE_TOKEN_INDEX not in labelled.input_ids
    assert "What is <image>?" in TOKENIZERS[style].decode(labelled.input_ids)


@pytest.mark.parametrize("style", STYLES)
def test_a_hidden_marker_is_text_beside_a_medium(style: str) -> None:
    said = "the tag <image> is text"
    turns = [Turn("user", "<image>\nWhat is said?"), Turn("assistant", escape_markers(said))]
    labelled = _label(turns, style, CORRECTED)
    assert labelled.input_ids.count(IMAGE_TOKEN_INDEX) == 1
    learned = [i for i in labelled.labels if i != IGNORE_INDEX]
    assert TOKENIZERS[style].decode(learned) == said + STOP_STRINGS[style]


def test_system_turn_counts_only_when_corrected() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Yes")]
    for rules, present in ((CORRECTED, True), (PUBLISHED, False)):
        text = TOKENIZERS["qwen"].decode(_label(turns, "qwen", rules).input_ids)
        assert ("Be brief." in text, "helpful" in text) == (present, not present)


def test_an_unanswered_question_teaches_nothing() -> None:
    assert not _label([Turn("user", "Hi")], "qwen", CORRECTED).learnable
    assert _label([Turn("user", "Hi"), Turn("assistant", "")], "qwen", CORRECTED).learnable


def test_records_of_both_spellings() -> None:
    ours = read_turns([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert ours == read_turns([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}])


@pytest.mark.parametrize("record", [{"from": "bot", "value": "a"}, {"from": "human"}, {"value": "a"}])
def test_bad_record_is_named(record: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"turn 1 is .* it needs 'from' \(one of .*\) and 'value'"):
        read_turns([{"from": "human", "value": "a"}, record])


def test_one_marker_in_front() -> None:
    turns = place_markers([Turn("user", " a<video> <image>b "), Turn("user", " c ")])
    assert [turn.text for turn in turns] == ["<image>\na b", " c "]


def test_tokenizer_must_fit_the_style() -> None:
    with pytest.raises(ValueError, match=r"no token <\|im_start\|>, <\|im_end\|>: it does not fit .* 'qwen'"):
        label_turns([Turn("user", "Hi")], TOKENIZERS["llama3"], "qwen", CORRECTED, has_medium=False)
    with pytest.raises(ValueError, match="needs a tokenizer with a BOS token"):
        label_turns([Turn("user", "Hi")], TOKENIZERS["qwen"], "llama3", CORRECTED, has_medium=False)


def test_nothing_but_an_answer() -> None:
    with pytest.raises(ValueError, match="without a user turn"):
        _label([Turn("assistant", "Yes")], "qwen", CORRECTED)
