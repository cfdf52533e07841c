"""Where a reply holds the whole text of an option, in whole words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.evaluate.parsing.characters import plain
from pipelines.evaluate.parsing.number_words import number_at
from pipelines.evaluate.parsing.tokens import Token, tokenise
from pipelines.evaluate.parsing.vocabulary import Lexicon

_ARTICLES = ("a", "an", "the")
_NOT_AFTER_ARTICLE = {"and", "or", "is", "was", "nor", "but", "as", "to", "in", "of"}
_OPERATORS = set("+-×÷/*^<>≤≥±=≈√$€£¥₹₽₩¢°%") | {"percent", "minus", "plus"}
_MULTIPLIERS = {"percent", "million", "billion", "thousand", "hundred", "dozen", "trillion", "and a half"}
_OR = {"or", "oder", "ou", "o", "of", "eller", "lub", "或", "или", "veya", "أو", "או", "या", "หรือ", "hoặc", "atau"}
_AND = {"and", "und", "et", "y", "e", "en", "och", "i", "и", "ve", "dan", "và"}
_MORE_THAN = {"than", "least", "most", "over", "under", "above", "below", "nearly", "almost", "first", "last", "next"}
_PARTICLES = re.compile(
    r"(?:은|는|이|가|을|를|에|에서|로|으로|와|과|도|만|의|하고|랑|이랑|까지|부터|보다|처럼|마다|께서|라고|이라고|라는|이라는|"
    r"입니다|이다|이에요|예요|에요|임|이며|며|이고|고|인|일|이었|였|죠|이죠|네요|요|이네요|같|하|한|할|해|했|합|됩|된|되|이지|지|이라|라|이나|나|아니|다|인데|들|씩|째|번)"
)
_FIRST_LETTER = re.compile(r"[A-Z](?= \w)")
_OWN_LABEL = r"\s*[(\[<{{\"']?\s*{letter}\s*(?:[)\]>}}\"'.:、,)\-–]|\s-)+\s*(?=\S)"


@dataclass(frozen=True)
class Found:
    """Tokens ``start`` to ``end`` (exclusive) are the text of the options in ``labels``, several if they share it."""

    start: int
    end: int
    labels: frozenset[str]


@dataclass
class _Spelling:
    """An option's text as it is looked for.

    Attributes:
        raw: as written, without quotation and closing marks.
        key: its loose words, run together.
        articles: the key still has them: "a" may be the name of something.
        marks: how many marks stand inside.
        letters, names: how often "a" stands in it alone, and how often as the name of something.
    """

    label: str
    raw: str
    key: str
    articles: bool
    marks: int
    letters: int
    names: int


@dataclass
class _Text:
    """Tokens as one string of loose words, with the token that starts or ends at each position."""

    string: str
    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)


class OptionTexts:
    """The texts of the options of one question, ready to be looked for."""

    def __init__(self, options: Sequence[str], lexicon: Lexicon) -> None:
        self.labels = [chr(ord("A") + index) for index in range(len(options))]
        self._lexicon = lexicon
        texts = list(self._texts(options))
        self._lettered = len({match[0] for _, text in texts if (match := _FIRST_LETTER.match(text))}) > 1
        self._spellings = [spelling for label, text in texts for spelling in self._spell(label, text)]

    def _texts(self, options: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each label with its text, and with its text less the label that all of them begin with."""
        texts = [" ".join(plain(option).split()) for option in options]
        prefixes = [
            re.match(_OWN_LABEL.format(letter=label), text, re.I)
            for label, text in zip(self.labels, texts, strict=False)
        ]
        for label, text, prefix in zip(self.labels, texts, prefixes, strict=False):
            if all(prefixes) and prefix is not None:
                yield label, text[prefix.end() :]
            else:
                yield label, text

    def _spell(self, label: str, text: str) -> Iterator[_Spelling]:
        tokens = tokenise(text)
        words = [token for token in tokens if token.kind not in ("mark", "newline")]
        if not words:
            return
        if len(words) == 1 and words[0].text.upper() in self.labels:
            return
        inside = tokens[: tokens.index(words[-1])]
        marks = sum(token.kind == "mark" and token.text in ".,;:!?" for token in inside)
        letters, names = _named(tokens)
        lettered = self._lettered and words[0].text == "A"
        for articles in (True,) if lettered else (False, True) if letters else (False,):
            yield _Spelling(label, _bare(text), self._text(tokens, articles).string, articles, marks, letters, names)

    def equal(self, tokens: Sequence[Token]) -> frozenset[str]:
        """Labels of the options whose text the tokens are, as a whole."""
        strings = {articles: self._text(tokens, articles).string for articles in (False, True)}
        same = [spelling for spelling in self._spellings if spelling.key == strings[spelling.articles]]
        same = [spelling for spelling in same if _names_as_much(tokens, spelling) and not _negative(tokens, 1)]
        raw = _bare(" ".join(_raw(tokens).split()))
        return self._told_apart(same, [raw])

    def find(self, tokens: Sequence[Token]) -> list[Found]:
        """Return the texts in ``tokens``, the longest where they overlap, in order."""
        texts = {articles: self._text(tokens, articles) for articles in (False, True)}
        spans: dict[tuple[int, int], list[_Spelling]] = {}
        for spelling in self._spellings:
            for start, end in self._occurrences(spelling, texts[spelling.articles], tokens):
                spans.setdefault((start, end), []).append(spelling)
        taken = bytearray(len(tokens))
        found = []
        for start, end in sorted(spans, key=lambda span: (tokens[span[0]].start - tokens[span[1] - 1].end, span)):
            if any(taken[start:end]):
                continue
            taken[start:end] = b"\x01" * (end - start)
            raws = [_bare(_raw(tokens[start:end]))]
            if start and tokens[start - 1].norm in _ARTICLES:
                raws.insert(0, _bare(_raw(tokens[start - 1 : end])))
            labels = self._told_apart(spans[start, end], raws)
            labels = labels or frozenset(s.label for s in spans[start, end])
            found.append(Found(start, end, labels | self._shortened(tokens, start, spans[start, end][0])))
        return sorted(found, key=lambda one: one.start)

    def _shortened(self, tokens: Sequence[Token], start: int, spelling: _Spelling) -> frozenset[str]:
        """Options of which only the first word stands before: ``opening and`` closing a door."""
        if start < 2 or tokens[start - 1].norm not in _AND | _OR:
            return frozenset()
        key = tokens[start - 2].norm + spelling.key.removeprefix(tokens[start].norm)
        return frozenset(other.label for other in self._spellings if other.key == key)

    def _told_apart(self, same: list[_Spelling], raws: list[str]) -> frozenset[str]:
        """Of options that are equal when read loosely, those that are so when read closely."""
        if len({spelling.raw for spelling in same}) <= 1:
            return frozenset(spelling.label for spelling in same)
        for closely in (str, _undotted, str.casefold, lambda raw: _undotted(raw).casefold()):
            for raw in raws:
                close = [spelling for spelling in same if closely(spelling.raw) == closely(raw)]
                if close and len({spelling.raw for spelling in close}) == 1:
                    return frozenset(spelling.label for spelling in close)
        return frozenset(spelling.label for spelling in same)

    def _text(self, tokens: Sequence[Token], articles: bool) -> _Text:
        text, parts, position = _Text(""), [], 0
        index = 0
        while index < len(tokens):
            length, loose = self._loose(tokens, index, articles)
            if loose:
                text.starts[position] = index
                position += len(loose)
                text.ends[position] = index + length
                parts.append(loose)
            index += length
        text.string = "".join(parts)
        return text

    def _loose(self, tokens: Sequence[Token], index: int, articles: bool) -> tuple[int, str]:
        """How many tokens are one loose word, and that word ("": ignored)."""
        token = tokens[index]
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.kind == "number":
            if after is not None and after.glued and after.norm in ("st", "nd", "rd", "th"):
                return 2, f"\x01{token.norm}{after.norm}\x02"
            return 1, f"\x01{token.norm}\x02"
        if token.kind in ("mark", "newline"):
            return 1, ""
        if (number := number_at(tokens, index, self._lexicon.numbers)) is not None:
            length, value = number
            return length, f"\x01{value}\x02"
        if token.kind == "word":
            if self._article(token, after) and not (articles and token.norm == "a"):
                return 1, ""
            if token.norm == "per" and after is not None and after.norm == "cent":
                return 2, "percent"
        return 1, token.norm

    @staticmethod
    def _article(token: Token, after: Token | None) -> bool:
        if token.norm not in _ARTICLES or after is None or (after.kind not in ("word", "number") and after.text != "-"):
            return False
        return after.norm not in _NOT_AFTER_ARTICLE

    def _occurrences(self, spelling: _Spelling, text: _Text, tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
        position = text.string.find(spelling.key)
        while position >= 0:
            start = text.starts.get(position)
            end = text.ends.get(position + len(spelling.key))
            if start is not None and end is not None and self._whole(tokens, start, end, spelling):
                yield start, end
            position = text.string.find(spelling.key, position + 1)

    @staticmethod
    def _whole(tokens: Sequence[Token], start: int, end: int, spelling: _Spelling) -> bool:
        """Whole words, whole numbers, and no sentence or line that ends inside."""
        inside = sum(token.kind == "mark" and token.text in ".,;:!?" for token in tokens[start : end - 1])
        if inside > spelling.marks or sum(token.kind == "newline" for token in tokens[start:end]) > 1:
            return False
        if tokens[start].norm == "a" and end - start > 1 and tokens[start + 1].kind == "mark":
            return False
        if "," in spelling.raw and _goes_on(tokens, start, end):
            return False
        if not _names_as_much(tokens[start:end], spelling):
            return False
        before = tokens[start - 1] if start else None
        after = tokens[end] if end < len(tokens) else None
        first, last = tokens[start], tokens[end - 1]
        if before is not None and first.glued and _joined(before, first, tokens[start - 2] if start > 1 else None):
            return False
        if after is not None and after.glued:
            if last.hangul and after.hangul:
                tail = "".join(token.text for token in tokens[end : end + 4])
                if not _PARTICLES.match(tail):
                    return False
            elif _joined(last, after, None, tokens[end + 1] if end + 1 < len(tokens) else None):
                return False
        if _negative(tokens, start):
            return False
        if first.kind == "number" or spelling.key.startswith("\x01"):
            if (
                start > 1
                and before is not None
                and before.norm in _OR | {"to", "–"}
                and tokens[start - 2].kind == "number"
            ):
                return False
            if before is not None and (
                before.norm in _OPERATORS - {"="}
                or before.norm in _MORE_THAN
                or (before.kind == "symbol" and before.text not in "=#~→|✓✗&")
            ):
                return False
        if after is None or not (last.kind == "number" or spelling.key.endswith("\x02")):
            return True
        beyond = tokens[end + 1] if end + 1 < len(tokens) else None
        if after.norm in _OR and beyond is not None and beyond.kind == "number":
            return False
        fraction = after.kind == "number" and "/" in after.norm
        return not (after.norm in _OPERATORS or after.norm in _MULTIPLIERS or fraction)


def _negative(tokens: Sequence[Token], start: int) -> bool:
    """``-$5``."""
    sign, symbol = tokens[start - 1 : start] if start else [], tokens[start : start + 1]
    return bool(sign and symbol) and sign[0].text in "-–" and symbol[0].kind == "symbol" and symbol[0].glued


def _names_as_much(tokens: Sequence[Token], spelling: _Spelling) -> bool:
    """The letter a names something as often as in the option, not more."""
    letters, names = _named(tokens)
    return letters >= spelling.names and not (names and max(names, letters) > spelling.letters)


def _goes_on(tokens: Sequence[Token], start: int, end: int) -> bool:
    """A list of numbers that has more of them."""
    ends = [tokens[start - 2 : start + 1] if start > 1 else [], tokens[end - 1 : end + 2]]
    return any([token.kind for token in part] == ["number", "mark", "number"] and part[1].text == "," for part in ends)


def _joined(left: Token, right: Token, beyond_left: Token | None = None, beyond_right: Token | None = None) -> bool:
    """Tell whether two tokens with nothing between them are one word or number."""
    if {left.kind, right.kind} <= {"word", "number"}:
        return not (left.text.isascii() != right.text.isascii() and left.kind == right.kind == "word")
    if left.hangul and right.hangul:
        return True
    if left.kind == right.kind == "kana":
        return True
    if left.text in "-_'" and left.glued and beyond_left is not None and beyond_left.kind in ("word", "number"):
        return right.kind in ("word", "number")
    if (
        right.text in "-_"
        and beyond_right is not None
        and beyond_right.glued
        and beyond_right.kind in ("word", "number")
    ):
        return left.kind in ("word", "number")
    if "address" in (left.kind, right.kind):
        return True
    if "symbol" in (left.kind, right.kind):
        symbol, other = (right, left) if right.kind == "symbol" else (left, right)
        if other.kind not in ("word", "number", "symbol"):
            return False
        return symbol.text not in "=→|~✓✗" and not (symbol.text in "/&" and "number" not in (left.kind, right.kind))
    return False


def _raw(tokens: Sequence[Token]) -> str:
    return "".join((" " if index and not token.glued else "") + token.text for index, token in enumerate(tokens))


def _undotted(text: str) -> str:
    return text.replace(".", "")


def _named(tokens: Sequence[Token]) -> tuple[int, int]:
    """How often the letter a stands alone, and how often as a capital where no sentence begins."""
    alone = [index for index, token in enumerate(tokens) if token.norm == "a" and token.kind == "word"]
    capital = [index for index in alone if tokens[index].text == "A" and index and tokens[index - 1].kind == "word"]
    return len(alone), 0 if not any(token.text.islower() for token in tokens) else len(capital)


def _bare(text: str) -> str:
    """Without quotation and closing marks."""
    return text.strip().strip("\"'").rstrip(" .,;:").strip()
