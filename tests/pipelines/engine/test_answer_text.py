"""Pieces of text, whatever the tokens are cut into, are the whole text up to the first stop text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from pipelines.engine.answer_text import AnswerText

TOKENIZER = build_tiny_tokenizer("qwen", 600)
TEXTS = st.text(st.sampled_from("ab<|im_endé漢🙂 \n"), max_size=30)


def earliest(text: str, stops: tuple[str, ...]) -> str:
    """The oracle: the text before the stop text that is complete first."""
    for length in range(len(text) + 1):
        ends = [text[:length].find(stop) for stop in stops if stop in text[:length]]
        if ends:
            return text[: min(ends)]
    return text


@given(TEXTS, st.lists(TEXTS.filter(bool), max_size=3).map(tuple))
def test_pieces_are_the_text_up_to_the_stop(text: str, stops: tuple[str, ...]) -> None:
    pieces, answer = [], AnswerText(TOKENIZER, stops)
    for token in TOKENIZER(text).input_ids:
        pieces.append(answer.add(token))
        assert not any(stop in "".join(pieces) for stop in stops)
        if answer.stopped:
            break
    pieces.append(answer.rest())
    assert "".join(pieces) == earliest(text, stops) or answer.stopped
    assert answer.stopped == any(stop in text for stop in stops)
    if answer.stopped:
        assert text.startswith("".join(pieces))
        assert any(text[len("".join(pieces)) :].startswith(stop) for stop in stops)


def test_signs_of_several_tokens_come_whole() -> None:
    tokens = TOKENIZER("漢🙂").input_ids
    answer = AnswerText(TOKENIZER, ())
    pieces = [answer.add(token) for token in tokens]
    assert len(tokens) == 7
    assert [piece for piece in pieces if piece] == ["漢", "🙂"]
    assert answer.rest() == ""


def test_a_sign_that_is_cut_off_is_said_to_be() -> None:
    tokens = TOKENIZER("a🙂").input_ids
    answer = AnswerText(TOKENIZER, ())
    pieces = [answer.add(token) for token in tokens[:-1]]
    assert "".join(pieces) == "a"
    assert answer.rest() == TOKENIZER.decode(tokens[:-1])[1:] != ""


def test_special_tokens_count_as_their_text() -> None:
    answer = AnswerText(TOKENIZER, ("<|im_end|>",))
    assert answer.add(TOKENIZER("b").input_ids[0]) == "b"
    assert answer.add(TOKENIZER.eos_token_id) == ""
    assert answer.stopped
