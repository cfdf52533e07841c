"""Characters as the grammar wants them: plain letters and digits, one kind of space, quote, dash and arrow.

Case, accents and every distinction that can tell two options apart are left alone.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_LETTER_NAME = re.compile(
    r"(?P<form>PARENTHESIZED|(?:NEGATIVE )?CIRCLED|CIRCLED ITALIC|(?:NEGATIVE |CROSSED NEGATIVE )?SQUARED|"
    r"REGIONAL INDICATOR SYMBOL|TORTOISE SHELL BRACKETED|FULLWIDTH|MATHEMATICAL|DOUBLE-STRUCK|SCRIPT|BLACK-LETTER|"
    r"TAG)\b.*\b(?P<case>CAPITAL|SMALL|LETTER) (?:LETTER )?(?P<letter>[A-Z])$"
)
_ENCLOSED = ("PARENTHESIZED", "CIRCLED", "SQUARED", "REGIONAL", "TORTOISE", "NEGATIVE", "CROSSED")
_DIGIT_NAME = re.compile(r"CIRCLED (?:SANS-SERIF )?DIGIT")
_FORMS = {
    **dict.fromkeys("“”„‟«»「」『』〝〞〟《》", '"'),
    **dict.fromkeys("‘’‚‛‹›´ʼʹ′＇`", "'"),
    **dict.fromkeys("‐‑⁃﹣－‒−➖", "-"),
    **dict.fromkeys("–—―⸺⸻﹘", "–"),
    **dict.fromkeys("→⇒➜➡⟶⟹➔➝➞➙➤►▶⇨↦☞👉∴", "→"),
    **dict.fromkeys("【〔［〖", "["),
    **dict.fromkeys("】〕］〗", "]"),
    **dict.fromkeys("〈⟨", "<"),
    **dict.fromkeys("〉⟩", ">"),
    **dict.fromkeys("✔✅☑🗸", "✓"),
    **dict.fromkeys("✘✖❌❎☒🗙", "✗"),
    **dict.fromkeys("•‣◦●○■□▪▫◆◇★☆⁌⁍", "•"),
    "。": ". ", "।": ". ", "．": ".", "、": ", ", "،": ", ", "؛": "; ", "؟": "?", "…": "... ", "⁄": "/", "∕": "/",
    "״": '"', "׳": "'", "־": "-", "·": " ", "・": " ", "٪": "%", "٬": ",", "٫": ".", "﷼": "﷼",
    "⇐": "<-", "←": "<-", "\t": " ", "\x0b": "\n", "\x0c": "\n", "\x85": "\n", "\u2028": "\n", "\u2029": "\n",
}  # fmt: skip
_INVISIBLE = {"\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", "\u17b4", "\u17b5", "\u180b", "\u180c", "\u180d", "ـ"}
_LOOKALIKES = str.maketrans("АВСЕНКМОРТХІЈЅԌАΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABCEHKMOPTXIJSGAABEZHIKMNOPTYX")
_LOWER_LOOKALIKES = str.maketrans("асеорхуіјѕ", "aceopxyijs")
_ASCII_ARROW = re.compile(r"[-=–]{1,3}>+")
_STRUCK = re.compile("(?:[^\\s\u0335-\u0338][\u0335-\u0338]\\s?)+")
_MIXED_WORD = re.compile(r"[A-Za-zА-Яа-яЁёІіЈјЅѕΑ-Ωα-ω]+")


def plain(text: str) -> str:
    """Return ``text`` in plain characters; what was struck out with combining marks is gone."""
    text = _STRUCK.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = "".join(map(_plain_character, text))
    text = text.replace(")(", ") (") if "\ue000" not in text else _enclosed(text)
    text = _ASCII_ARROW.sub("→", text)
    return _MIXED_WORD.sub(_one_alphabet, text)


def label_letter(letter: str) -> str:
    """Return the Latin capital that ``letter`` is or looks like; Cyrillic and Greek only as capitals."""
    return letter.translate(_LOOKALIKES).upper()


@lru_cache(maxsize=65536)
def _plain_character(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() or character == "\n" else _FORMS.get(character, "")
    if character in _FORMS:
        return _FORMS[character]
    category = unicodedata.category(character)
    if category == "Cf" or character in _INVISIBLE or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""
    if 0x20D0 <= ord(character) <= 0x20F0 or 0xE0100 <= ord(character) <= 0xE01EF:
        return ""
    if category == "Cc":
        return ""
    if category == "Zs" or character == "\u2800":
        return " "
    if category == "Nd":
        return str(unicodedata.digit(character))
    name = unicodedata.name(character, "")
    if (match := _LETTER_NAME.search(name)) is not None:
        letter = match["letter"].lower() if match["case"] == "SMALL" else match["letter"]
        return f"\ue000{letter}\ue001" if match["form"].startswith(_ENCLOSED) else letter
    if _DIGIT_NAME.search(name):
        return str(unicodedata.digit(character, ""))
    if category == "No" and "FRACTION" in name:
        return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
    if 0xFF00 <= ord(character) <= 0xFFEF or 0x3300 <= ord(character) <= 0x33FF:
        return unicodedata.normalize("NFKC", character)
    return character


def _enclosed(text: str) -> str:
    """Circled and squared letters are bracketed ones, unless they spell a word."""
    text = re.sub("(?:\ue000.\ue001){2,}", lambda run: re.sub("[\ue000\ue001]", "", run[0]), text)
    return text.replace("\ue000", "(").replace("\ue001", ") ")


def _one_alphabet(word: re.Match[str]) -> str:
    """A word in two alphabets is a Latin word with look-alikes in it."""
    text = word[0]
    latin = any(character.isascii() for character in text)
    if not latin or text.isascii():
        return text
    mapped = text.translate(_LOOKALIKES).translate(_LOWER_LOOKALIKES)
    return mapped if mapped.isascii() else text
