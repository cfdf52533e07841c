"""Plain text -> tokens: words, numbers, characters of scripts without spaces, symbols and marks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+|"
    r"(?<![\w.])[\w-]{1,64}(?:\.[\w-]{1,64}){0,8}\.(?:com|org|net|edu|gov|jpe?g|png|gif|mp4|avi|mkv|webm|txt|html?|pdf|json|py|csv)\b(?![.]\w)|"
    r"(?<!\w)(?:[nN]/[aA]|[wW]/[oO]|[bB]/c|[cC]/[oO]|[aA]/[cC])(?!\w)|(?<!\w)[A-Za-z]:\\\w[\w.\\-]*|(?<!\w)(?:[A-Za-z]:)?[\\/](?:[\w.-]{2,64}[\\/])+[\w.-]*"
)
# Classes: L letters of alphabets with case, O other spaced scripts, C scripts without spaces, K katakana, H Hangul,
# m combining, D digits, S space, N newline, A addresses, Y symbols, P other punctuation; ASCII marks are themselves.
_TOKEN = re.compile(
    r"(?P<address>A+)|"
    r"(?P<number>(?:(?<![LODmCKH'\"%)\]])[-+±](?=D))?(?:D{1,3}(?:[,'_]D{3})+(?!D)(?:\.D+)?|D{1,3}(?:SD{3})+(?![D.,:/])|"
    r"D+SD/D+(?!D)|D+(?:[.,:/]D+)*))|"
    r"(?P<abbreviation>(?<![Lm'])(?:L\.)+L(?![Lm'])\.?)|"
    r"(?P<word>(?:Lm*)+(?:'(?:Lm*)+)*|(?:Om*)+)|"
    r"(?P<char>[CH]m*)|(?P<kana>(?:Km*)+)|(?P<newline>N)|(?P<symbol>[Y$%+=<>^*#@&/~\\|])|(?P<mark>[^S])"
)
# Not the groups of thousands, nor one decimal comma.
_LIST = re.compile(r"\d{1,2}(?:,\d{1,2}){2,}")
_ELISION = re.compile(
    r"(?:[ldjnsmtc]|qu|jusqu|lorsqu|puisqu|quoiqu|dell|all|nell|sull|dall|un|quest|quell|bell|sant|tutt|com|dov|cos)'(?=\w{2})",
    re.I,
)
# Dates and the like are chains of ranges; longer ones are no numbers.
_LONGEST_RANGE = 60
_NO_SPACES = ("CJK", "HIRAGANA", "THAI", "LAO", "KHMER", "MYANMAR", "IDEOGRAPHIC", "BOPOMOFO", "YI ")
_CONTRACTED = {"c'mon", "d'you", "t'was", "s'more", "com'on"}
_CASED = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN")


@dataclass(slots=True)
class Token:
    """A piece of the text: ``text[start:end]``.

    Attributes:
        kind: word, number, char, kana, symbol, mark, newline or address.
        norm: case-folded, without apostrophes and the dots of abbreviations; digits without separators.
        glued: nothing stands between this token and the one before.
    """

    kind: str
    text: str
    norm: str
    start: int
    end: int
    glued: bool

    @property
    def hangul(self) -> bool:
        """A Hangul syllable."""
        return self.kind == "char" and "\uac00" <= self.text[0] <= "\ud7a3"

    @property
    def unspaced(self) -> bool:
        """A character of a script without spaces between words."""
        return self.kind in ("char", "kana")


def tokenise(text: str) -> list[Token]:
    """Split plain text into tokens, in order."""
    marked = list(map(_class, text))
    for address in _ADDRESS.finditer(text):
        marked[address.start() : address.end()] = "A" * len(address[0])
    classes = "".join(marked)
    return list(_merged_ranges(list(_tokens(text, classes))))


def _tokens(text: str, classes: str) -> Iterator[Token]:
    previous_end = -1
    for match in _TOKEN.finditer(classes):
        kind = str(match.lastgroup)
        start, end = match.span()
        if (
            kind == "word"
            and (elided := _ELISION.match(text, start, end)) is not None
            and text[start:end].lower() not in _CONTRACTED
        ):
            yield Token("word", elided[0], elided[0][:-1].casefold(), start, elided.end(), start == previous_end)
            start, previous_end = elided.end(), -1
        raw = text[start:end]
        if kind == "number" and _LIST.fullmatch(raw):
            yield from _listed(raw, start, start == previous_end)
            previous_end = end
            continue
        yield Token(
            "word" if kind == "abbreviation" else kind, raw, _norm(kind, raw), start, end, start == previous_end
        )
        previous_end = end


def _listed(raw: str, start: int, glued: bool) -> Iterator[Token]:
    """The numbers and commas of ``1,2,3``."""
    for part in re.finditer(r"\d+|,", raw):
        kind = "mark" if part[0] == "," else "number"
        yield Token(kind, part[0], part[0], start + part.start(), start + part.end(), glued or part.start() > 0)


def _norm(kind: str, raw: str) -> str:
    if kind == "number":
        return _number(raw)
    if kind == "abbreviation":
        return raw.replace(".", "").casefold()
    if kind == "word":
        return unicodedata.normalize("NFC", raw.replace("'", "").casefold())
    if kind == "symbol":
        return {"&": "and", "%": "percent"}.get(raw, raw)
    return raw


def _number(raw: str) -> str:
    digits = (
        re.sub(r"(?<=\d)[,' _](?=\d{3}(?!\d))", "", raw)
        if re.fullmatch(r"\D?\d{1,3}(?:[,' _]\d{3})+(?:\.\d+)?", raw)
        else raw
    )
    return digits


def _merged_ranges(tokens: list[Token]) -> Iterator[Token]:
    """``3-5``, ``3 – 5``, ``3 to 5`` and ``between 3 and 5`` are one number: a range."""
    index = 0
    while index < len(tokens):
        token = tokens[index]
        after = tokens[index + 1 : index + 3]
        if (
            token.kind == "number"
            and len(token.text) <= _LONGEST_RANGE
            and len(after) == 2
            and after[1].kind == "number"
            and after[1].text[0].isdigit()
        ):
            between = index > 0 and tokens[index - 1].norm == "between" and after[0].norm == "and"
            if after[0].norm in ("-", "–", "~", "to", "through", "至", "到", "bis", "до") or between:
                text = f"{token.norm}–{after[1].norm}"
                tokens[index + 2] = Token("number", text, text, token.start, after[1].end, token.glued)
                index += 2
                continue
        yield token
        index += 1


@lru_cache(maxsize=65536)
def _class(character: str) -> str:
    if character.isascii():
        if character.isalpha():
            return "L"
        if character.isdigit():
            return "D"
        return {" ": "S", "\n": "N"}.get(character, character)
    category = unicodedata.category(character)
    if category in ("Mn", "Mc", "Me"):
        return "m"
    if category[0] == "L":
        if "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff":
            return "H"
        name = unicodedata.name(character, "")
        if name.startswith("KATAKANA"):
            return "K"
        if name.startswith(_NO_SPACES):
            return "C"
        return "L" if name.startswith(_CASED) or category in ("Lu", "Ll", "Lt") else "O"
    if category == "Nd":
        return "D"
    if category in ("Sc", "Sm", "So", "Sk", "No", "Nl"):
        return "Y"
    return "K" if character == "ー" else "P"
