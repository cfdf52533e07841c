"""The words by which twenty languages announce, reject, correct and doubt: ``vocabulary.yaml``, ready for look-up."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import yaml

from pipelines.evaluate.parsing.characters import plain
from pipelines.evaluate.parsing.tokens import Token, tokenise

LATIN_LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr", "vi", "id")
_BY_SCRIPT = {"ru": "CYRILLIC", "ar": "ARABIC", "he": "HEBREW", "hi": "DEVANAGARI", "th": "THAI", "ko": "HANGUL"}
# Languages within this factor of the likeliest one are read too; a little is added for English.
_NEARLY = 0.6
_ENGLISH_PRIOR = 0.3
_ENGLISH_NEARLY = 0.25
_LEAST_FOLDED = 4
_PREFIXES = "והשבלكוفبل"
_TENS = {
    w: 10 * n
    for n, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
}
_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
_SIMPLIFIED = str.maketrans(
    "應該選擇確對錯誤項題視頻認為覺來這個沒無與還實際說從後過剛給們會須據結論綜總終於顯難斷並單問樣將獲發現變訂讓較適當間開關",
    "应该选择确对错误项题视频认为觉来这个没无与还实际说从后过刚给们会须据结论综总终于显难断并单问样将获发现变订让较适当间开关",
)
_VARIANTS = str.maketrans("ıłđøىة", "ildoيه")


@dataclass(frozen=True)
class Lexicon:
    """The vocabulary of some languages together.

    Attributes:
        phrases: first word -> (words of the phrase, what they do), longest first.
        letters: one-letter words, lower case.
        numbers: word -> digits.
        english: English is among them.
    """

    phrases: dict[str, list[tuple[tuple[str, ...], frozenset[str]]]]
    letters: frozenset[str]
    numbers: dict[str, str]
    english: bool

    def longest(self, tokens: Sequence[Token], index: int, most: int = 99) -> tuple[int, frozenset[str]]:
        """Return how many tokens, ``most`` or fewer, the longest phrase at ``index`` covers (0: none), and its tags."""
        first = tokens[index].norm
        for key, written in ((first, _as_written), ("~" + _fold(first), _fold)):
            for phrase, tags in self.phrases.get(key, ()):
                length = _covered(tokens, index, phrase, written)
                if 0 < length <= most:
                    return length, tags
        return self._prefixed(first)

    def _prefixed(self, word: str) -> tuple[int, frozenset[str]]:
        """Hebrew and Arabic write *and*, *the* and *that* as one word with the next."""
        if len(word) > 2 and word[0] in _PREFIXES:
            for phrase, tags in self.phrases.get(word[1:], ()):
                if len(phrase) == 1:
                    return 1, tags | ({"and"} if word[0] in "וو" else frozenset())
        return 0, frozenset()


def _as_written(word: str) -> str:
    return word


def _covered(tokens: Sequence[Token], index: int, phrase: tuple[str, ...], written: Callable[[str], str]) -> int:
    """How many tokens from ``index`` are the phrase, with spaces or hyphens between its words; 0 where they are not."""
    end = index
    for word in phrase:
        if index < end < len(tokens) and tokens[end].text == "-" and tokens[end].glued:
            end += 1
        if end >= len(tokens) or written(tokens[end].norm) != word:
            return 0
        end += 1
    return end - index


def lexicon_for(texts: Iterable[Token]) -> Lexicon:
    """Return the lexicon of the languages that the tokens are written in."""
    return _lexicon(_languages(list(texts)))


@lru_cache(maxsize=1024)
def is_answer_name(name: str, plural: bool = False, strict: bool = False) -> bool:
    """Tell whether a field, tag or column of this name holds the answer.

    Args:
        name: as written, any of the languages.
        plural: also accept the name of a list of options.
        strict: accept words for *answer* only, not those for *option* or *choice*.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    tokens = [token for token in tokenise(plain(words)) if token.kind not in ("mark", "symbol", "newline")]
    if not tokens or len(tokens) > 12:
        return False
    joined = " ".join(token.norm for token in tokens)
    if joined in _list_names() and not plural:
        return False
    lexicon, index, announced = _lexicon(tuple(_tables())), 0, False
    while index < len(tokens):
        length, tags = lexicon.longest(tokens, index)
        if not length or not tags & {"answer", "right", "final", "choose", "filler", "be", "maybe"} or "ask" in tags:
            return False
        words_here = " ".join(token.norm for token in tokens[index : index + length])
        announced |= "answer" in tags and (not strict or words_here in _answer_words())
        index += length
    return announced or (joined in ("final", "correct", "selected", "chosen") and not strict)


@cache
def _tables() -> dict[str, dict[str, str]]:
    return dict(yaml.safe_load(Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8")))


@cache
def _list_names() -> frozenset[str]:
    plurals = {"options", "choices", "candidates", "answer choices", "answer options", "answers", "responses", "labels"}
    return frozenset(
        plurals | {phrase for table in _tables().values() for phrase in table["list"].split("|") if phrase.isascii()}
    )


@cache
def _answer_words() -> frozenset[str]:
    first = {table["answer"].split("|")[0].casefold() for table in _tables().values()}
    return frozenset(first | {"prediction", "solution", "답", "回答", "答", "cevabı", "התשובה", "إجابة", "response"})


@lru_cache(maxsize=256)
def _lexicon(languages: tuple[str, ...]) -> Lexicon:
    collected: dict[tuple[str, ...], set[str]] = {}
    letters: set[str] = set()
    numbers = _english_numbers()
    for language in languages:
        table = _tables()[language]
        letters.update(table["letters"].split())
        if language != "en":
            counted = enumerate(table["numbers"].split())
            numbers.update({word: str(n) for n, word in counted if n != 1 and len(word) > 1 and word not in numbers})
        for tag, phrases in table.items():
            if tag in ("letters", "numbers"):
                continue
            for phrase in filter(None, phrases.split("|")):
                collected.setdefault(_words(phrase), set()).add(tag)
    nouns = {words for words, tags in collected.items() if "answer" in tags}
    index: dict[str, list[tuple[tuple[str, ...], frozenset[str]]]] = {}
    for words, tags in collected.items():
        if "final" in tags and any(words[-len(noun) :] == noun or words[: len(noun)] == noun for noun in nouns):
            tags.add("answer")
        if tags & {"place", "now", "grounds"} and "because" not in tags:
            tags.add("filler")
        if not words:
            continue
        index.setdefault(words[0], []).append((words, frozenset(tags)))
        folded = tuple(map(_fold, words))
        if (folded not in collected and len("".join(folded)) >= _LEAST_FOLDED) or _is_chinese(words[0][0]):
            index.setdefault("~" + folded[0], []).append((folded, frozenset(tags)))
    for entries in index.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return Lexicon(index, frozenset(letters), numbers, "en" in languages)


@lru_cache(maxsize=16384)
def _words(phrase: str) -> tuple[str, ...]:
    return tuple(token.norm for token in tokenise(plain(phrase)))


@cache
def _word_weights() -> dict[str, dict[str, float]]:
    """Word -> language -> weight: one, shared by the languages that have the word."""
    owners: dict[str, set[str]] = {}
    for language in LATIN_LANGUAGES:
        table = _tables()[language]
        phrases = "|".join(value for tag, value in table.items() if tag not in ("letters", "numbers")).split("|")
        for word in {word for phrase in phrases for word in _words(phrase)} | set(table["numbers"].split()):
            if len(word) > 1 and word[0].isalpha():
                owners.setdefault(word, set()).add(language)
    return {word: dict.fromkeys(langs, 1 / len(langs)) for word, langs in owners.items()}


def _languages(tokens: list[Token]) -> tuple[str, ...]:
    scores = dict.fromkeys(LATIN_LANGUAGES, 0.0)
    scores["en"] = _ENGLISH_PRIOR
    sample = tokens[:400] + tokens[-400:]
    weights = _word_weights()
    for token in sample:
        for language, weight in weights.get(token.norm, {}).items():
            scores[language] += weight
    best = max(scores.values())
    active = [language for language, score in scores.items() if score >= _NEARLY * best and score > 0]
    if "en" not in active and scores["en"] >= _ENGLISH_NEARLY * best:
        active.append("en")
    scripts = {script for token in sample if not token.text.isascii() for script in _scripts(token.text)}
    active += [language for language, script in _BY_SCRIPT.items() if script in scripts]
    if "HIRAGANA" in scripts or "KATAKANA" in scripts:
        active.append("ja")
    elif "CJK" in scripts:
        active += ["zh", "ja"] if len([t for t in sample if t.unspaced]) < 4 else ["zh"]
    return tuple(sorted(set(active)))


@lru_cache(maxsize=16384)
def _scripts(text: str) -> frozenset[str]:
    return frozenset(unicodedata.name(character, "?").split(" ")[0] for character in text)


@lru_cache(maxsize=16384)
def _fold(word: str) -> str:
    """Without the accents, vowel points and letter variants that writers leave out."""
    if _is_chinese(word[0]):
        return word.translate(_SIMPLIFIED)
    if word.isascii() or not _scripts(word[0]) & {"LATIN", "CYRILLIC", "ARABIC", "HEBREW"}:
        return word
    base = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
    return base.translate(_VARIANTS)


def _is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


@cache
def _base_numbers() -> dict[str, str]:
    table = {word: str(n) for n, word in enumerate(_tables()["en"]["numbers"].split())}
    table.update({word: str(n) for word, n in _TENS.items()})
    for ten, n in _TENS.items():
        table.update(
            {ten + word: str(n + k) for k, word in enumerate(_tables()["en"]["numbers"].split()) if 0 < k < 10}
        )
    table.update({word: f"{n}{_suffix(n)}" for n, word in enumerate(_ORDINALS, start=1)})
    return table


def _english_numbers() -> dict[str, str]:
    return dict(_base_numbers())


def _suffix(number: int) -> str:
    return {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
