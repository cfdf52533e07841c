"""Tokens -> elements: labels, option texts, words that act on a choice, other words, marks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluate.parsing.characters import label_letter
from pipelines.evaluate.parsing.option_texts import Found
from pipelines.evaluate.parsing.tokens import Token
from pipelines.evaluate.parsing.vocabulary import Lexicon, is_answer_name

OPENING, CLOSING = "([{<\"'", ")]}>\"'"
ITEM_MARKS = ".):]、,-–"
_AFTER_LABEL = {"because", "not", "not_after", "or", "and", "but", "than", "mend"}
_LINKS = {"as", "for", "with", "which", "who", "where", "when", "in", "on", "based", "from", "given", "according", "by",
          "because", "since", "that", "here", "would", "will", "seems", "matches", "fits", "due", "over", "describes",
          "indeed", "then", "best", "clearly", "it"}  # fmt: skip
_TURKISH_SUFFIX = re.compile(
    r"(?:[dt][ıiuü]r|y[ıiuü]|n[ıiuü]n|[dt][ae]n?|[ıiuü]n|y[ae]|[ae]|[ıiuü]|l[ae]|yl[ae]|y[dt][ıi])\b", re.I
)
# P(A) = 0.2
_MEASURES = {"p", "pr", "prob", "score", "f"}
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "miss"}
_LEAST_ADVERB = 6
_FUNCTION_TAGS = {"yes", "no"}
_ABSOLUTE = {"all", "none", "both", "neither", "either", "有", "没有"}


@dataclass(slots=True)
class Element:
    """What the grammar reads.

    Attributes:
        kind: label, text, tag, word, mark or newline.
        labels: the options meant by a label (one, or "?" for one beyond the last) or by a text.
        tags: what a tag does.
        text: as written; the mark itself for marks.
        start, end: tokens covered.
        bracketed: a label with a bracket or quote around it or behind it.
        functional: a text such as yes, no, both, which chooses only where it stands alone.
    """

    kind: str
    start: int
    end: int
    text: str
    labels: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    bracketed: bool = False
    functional: bool = False

    @property
    def mention(self) -> bool:
        """A label or an option text."""
        return self.kind in ("label", "text")


def elements_of(
    tokens: Sequence[Token], found: Sequence[Found], labels: Sequence[str], lexicon: Lexicon
) -> list[Element]:
    """Return the elements of a reply, in order.

    Args:
        tokens: of the whole reply.
        found: the option texts in it.
        labels: of the options.
        lexicon: of its languages.
    """
    texts = {one.start: one for one in found}
    elements: list[Element] = []
    index, chained = 0, -1
    while index < len(tokens):
        token = tokens[index]
        length, tags = lexicon.longest(tokens, index)
        inside = next((n for n in range(1, length) if index + n in texts), 0)
        if inside and tags & {"choose", "place", "right"}:
            # goes | to the garden, right | before noon, where an option begins with the second word
            length, tags = lexicon.longest(tokens, index, inside)
        if index in texts:
            one = texts[index]
            following = lexicon.longest(tokens, one.end)[1] if one.end < len(tokens) else frozenset()
            adjective = one.end - one.start == 1 and tags & {"right", "wrong", "final"} and following & {"answer"}
            if not adjective and not (length > one.end - one.start and tags & {"maybe", "final"}):
                functional = one.end - one.start == 1 and bool(tags & _FUNCTION_TAGS or token.norm in _ABSOLUTE)
                elements.append(
                    Element("text", one.start, one.end, token.text, one.labels, tags, functional=functional)
                )
                index = chained = one.end
                continue
        if is_label(tokens, index, labels, lexicon, elements):
            letter = label_letter(token.text[0])
            after = tokens[index + 1] if index + 1 < len(tokens) else None
            bracketed = after is not None and after.glued and after.text in CLOSING and after.kind in ("mark", "symbol")
            elements.append(
                Element(
                    "label",
                    index,
                    index + 1,
                    token.text,
                    frozenset({letter if letter in labels else "?"}),
                    bracketed=bracketed,
                )
            )
            index = chained = index + 1
        elif length and _stands(tokens, index, length, tags, chained):
            elements.append(Element("tag", index, index + length, token.norm, tags=tags))
            index = chained = index + length
        elif _is_adverb(token, lexicon):
            elements.append(Element("tag", index, index + 1, token.norm, tags=frozenset({"filler"})))
            index = chained = index + 1
        else:
            kind = {"mark": "mark", "newline": "newline"}.get(token.kind, "word")
            if token.kind == "symbol" and (token.text in "<>=~|/\\#*@" or unicodedata.category(token.text[0]) == "So"):
                kind = "mark"
            elements.append(Element(kind, index, index + 1, token.text))
            index += 1
    return elements


def _is_adverb(token: Token, lexicon: Lexicon) -> bool:
    """English adverbs only colour what is said."""
    return token.norm.endswith("ly") and len(token.norm) >= _LEAST_ADVERB and token.text.isascii() and lexicon.english


def _stands(tokens: Sequence[Token], index: int, length: int, tags: frozenset[str], chained: int) -> bool:
    """Hangul phrases start a word or follow one; the short ones that negate or condition also end it."""
    token = tokens[index]
    if not token.hangul:
        return True
    inside = token.glued and index > 0 and tokens[index - 1].hangul
    if inside and chained != index:
        return False
    if length == 1 and tags & {"not", "if", "no", "but", "or", "and", "reject", "wrong", "right"} and not inside:
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        return not (after is not None and after.hangul and after.glued) or bool(tags & {"right", "wrong"})
    return True


def is_label(
    tokens: Sequence[Token],
    index: int,
    labels: Sequence[str],
    lexicon: Lexicon,
    before: Sequence[Element],
) -> bool:
    """Tell whether a token is a letter on its own that can be a label where it stands."""
    token = tokens[index]
    if token.kind != "word" or (len(token.text) != 1 and not _turkish(token)):
        return False
    letter = label_letter(token.text[0])
    if not ("A" <= letter <= "Z") or _belongs_to_a_word(tokens, index):
        return False
    if not token.text[0].isascii() and not token.text[0].isupper():
        return False
    after = tokens[index + 1 : index + 2]
    if token.norm in _MEASURES and after and after[0].text == "(" and after[0].glued:
        return False
    if letter not in labels:
        return (
            token.text[0].isupper()
            and _set_off(tokens, index)
            and not (letter == "I" and not _bracketed(tokens, index))
        )
    if token.text[0].lower() not in lexicon.letters and not (letter in "AI" and "i" in lexicon.letters):
        return True
    return _set_off(tokens, index) or _followed_as_label(tokens, index, lexicon, before)


def _turkish(token: Token) -> bool:
    return len(token.text) > 2 and token.text[1] == "'" and _TURKISH_SUFFIX.fullmatch(token.text[2:]) is not None


def _belongs_to_a_word(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    before = tokens[index - 1] if index else None
    titled = tokens[max(0, index - 2) : index]
    if titled and titled[0].norm in _TITLES and all(one.norm in _TITLES or one.text == "." for one in titled):
        return True
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    if before is not None and token.glued:
        if before.kind == "number" or (before.kind == "symbol" and before.text not in "<>=/*|~\\→✓✗"):
            return True
        if before.kind == "word" and before.text.isascii():
            return True
        if before.text == "(" and before.glued and index > 1 and tokens[index - 2].norm in _MEASURES:
            return True
        if before.text in "-_" and before.glued and index > 1 and tokens[index - 2].kind in ("word", "number"):
            return tokens[index - 2].text.isascii() and not is_answer_name(tokens[index - 2].text)
        if before.text in "'@" and index > 1 and before.glued and tokens[index - 2].kind == "word":
            return True
    if after is not None and after.glued:
        beyond = tokens[index + 2] if index + 2 < len(tokens) else None
        if after.kind in ("number", "address") or (after.kind == "symbol" and after.text not in "<>=/*|~\\→✓✗"):
            return True
        if after.kind == "word" and after.text.isascii():
            return True
        if after.text in "-_" and beyond is not None and beyond.glued and beyond.kind in ("word", "number"):
            return True
        if after.text == "." and beyond is not None and beyond.glued and beyond.kind == "number":
            return True
        if after.text == "." and _initials(tokens, index + 2):
            return True
        if after.text in "*+" and beyond is not None and beyond.glued and after.text == beyond.text:
            return True
    return False


def _initials(tokens: Sequence[Token], index: int) -> bool:
    """``M. Smith`` follows."""
    part = tokens[index : index + 3]
    return (
        len(part) == 3
        and len(part[0].text) == 1
        and part[0].text.isupper()
        and part[1].text == "."
        and part[2].text.istitle()
    )


def _bracketed(tokens: Sequence[Token], index: int) -> bool:
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    return after is not None and after.glued and after.text in CLOSING


def _set_off(tokens: Sequence[Token], index: int) -> bool:
    """A mark, the end of the line, or another script stands behind the letter."""
    after = tokens[index + 1] if index + 1 < len(tokens) else None
    if after is None or after.kind not in ("word", "number"):
        return True
    return _latin(after.text[0]) != _latin(tokens[index].text[0])


def _latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN")


def _inside_a_sentence(tokens: Sequence[Token], index: int) -> bool:
    """A capital between words in lower case is no article."""
    around = [*tokens[max(0, index - 2) : index], tokens[index + 1]]
    return len(around) == 3 and all(token.kind == "word" and token.text.islower() for token in around)


def _followed_as_label(tokens: Sequence[Token], index: int, lexicon: Lexicon, before: Sequence[Element]) -> bool:
    """A letter that is also a word, with a word behind it: is it used as a label?"""
    if tokens[index].norm == "i" and tokens[index + 1].norm != "is":
        return False
    upper = tokens[index].text.isupper()
    title = bool(before) and before[-1].kind == "tag" and "answer" in before[-1].tags
    length, tags = lexicon.longest(tokens, index + 1)
    beyond = index + 1 + length
    closed = beyond >= len(tokens) or tokens[beyond].kind in ("mark", "newline")
    after = tokens[index + 1].text
    if upper and (title or (len(after) == 1 and label_letter(after).isalpha() and after.isupper() and after != "I")):
        return True
    if upper and _inside_a_sentence(tokens, index):
        return True
    if tags & {"right", "wrong"} and (closed or "be" in tags):
        return upper
    if "right" in tags and not closed and "than" in lexicon.longest(tokens, beyond)[1]:
        return upper
    if "be" in tags:
        return upper or title or not before or before[-1].kind in ("mark", "newline")
    if tags & _AFTER_LABEL or tokens[index + 1].norm in _LINKS:
        reason = not before and after == "because"
        return upper or reason or (title and bool(tags & _AFTER_LABEL)) or bool(tags & {"and", "or"})
    return False
