"""Numbers in words: ``twenty-one``, ``one hundred and five``, ``三个``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipelines.evaluate.parsing.tokens import Token

_POWERS = {"hundred": 100, "thousand": 1000, "million": 10**6}
_BEFORE_PRONOUN = {
    "the", "this", "that", "which", "no", "every", "each", "any", "correct", "right", "last", "other", "only", "wrong",
    "best", "another", "some",
}  # fmt: skip
_AFTER_PRONOUN = {"is", "of", "that", "who", "which", "can", "might", "could", "would"}
_PLACES = {"on", "at", "in", "from", "with", "behind", "near", "under", "beside"}
_CJK_DIGITS = dict(zip("零〇一二两兩三四五六七八九", "0012223456789", strict=True))
_CJK_COUNTED = re.compile(
    r"^[个個只名位人次件条條辆輛张本種种年月日点點分秒米块塊つ回番台匹頭枚杯度倍步隻頂岁歲元号號、。,.]?$"
)


def number_at(tokens: Sequence[Token], index: int, numbers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return how many tokens from ``index`` on are a number in words, and its digits; None where there is none.

    Args:
        numbers: single words -> digits.
    """
    token = tokens[index]
    if token.kind == "char" and not token.hangul and _is_cjk_digit(token):
        return _cjk_number(tokens, index)
    if token.kind != "word" or (token.norm not in numbers and token.norm != "a"):
        return None
    if (tens := _tens_and_units(tokens, index, numbers)) is not None:
        return tens
    first = numbers.get(token.norm) or ("1" if token.norm == "a" else "")
    powers = tokens[index + 1 : index + 2]
    if first.isdigit() and powers and powers[0].norm in _POWERS:
        length, value = 2, int(first) * _POWERS[powers[0].norm]
        if powers[0].norm == "hundred":
            rest = index + 2 + (index + 3 < len(tokens) and tokens[index + 2].norm == "and")
            below = _below_hundred(tokens, rest, numbers)
            if below is not None:
                length, value = rest + below[0] - index, value + int(below[1])
        return length, str(value)
    if token.norm in numbers and not _is_pronoun(tokens, index):
        return 1, numbers[token.norm]
    return None


def _tens_and_units(tokens: Sequence[Token], index: int, numbers: Mapping[str, str]) -> tuple[int, str] | None:
    """``twenty one``, ``twenty-one``."""
    parts = [token.norm for token in tokens[index : index + 3]]
    gap = 2 if len(parts) == 3 and parts[1] == "-" else 1
    both = parts[0] + parts[gap] if len(parts) > gap else ""
    if parts[0] in numbers and both in numbers and parts[gap] in numbers:
        return gap + 1, numbers[both]
    return None


def _below_hundred(tokens: Sequence[Token], index: int, numbers: Mapping[str, str]) -> tuple[int, str] | None:
    if index >= len(tokens):
        return None
    digits = numbers.get(tokens[index].norm, "")
    single = (1, digits) if digits.isdigit() and int(digits) < 100 else None
    return _tens_and_units(tokens, index, numbers) or single


def _is_pronoun(tokens: Sequence[Token], index: int) -> bool:
    """``the one that``, ``one of``: not a number."""
    if tokens[index].norm != "one":
        return False
    before = tokens[index - 1].norm if index else ""
    after = tokens[index + 1].norm if index + 1 < len(tokens) else ""
    return before in _BEFORE_PRONOUN or (index > 0 and after in _PLACES) or after in _AFTER_PRONOUN


def _is_cjk_digit(token: Token) -> bool:
    return token.text in _CJK_DIGITS or token.text == "十"


def _cjk_number(tokens: Sequence[Token], index: int) -> tuple[int, str] | None:
    """``三``, ``十二``, ``二十一`` before a counter or at the end of a word."""
    end = index
    while end < len(tokens) and end - index < 3 and _is_cjk_digit(tokens[end]):
        end += 1
    digits = "".join(token.text for token in tokens[index:end])
    after = tokens[end].text if end < len(tokens) and tokens[end].kind == "char" else ""
    before = tokens[index - 1] if index else None
    if not _CJK_COUNTED.match(after) or (before is not None and before.glued and before.text in "第星期周"):
        return None
    if "十" not in digits:
        return end - index, str(int("".join(_CJK_DIGITS[digit] for digit in digits)))
    tens, _, units = digits.partition("十")
    return end - index, str(10 * int(_CJK_DIGITS.get(tens, "1")) + int(_CJK_DIGITS.get(units, "0")))
