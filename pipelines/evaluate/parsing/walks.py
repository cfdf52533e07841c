"""Walks through the options, item by item: each is chosen or rejected by its own verdict, or only listed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.statements import CHOSEN, IGNORED, REJECTED, Mention, Sentence

# Elements of the last item of a walk.
_LONGEST_ITEM = 120


def read_walks(elements: Sequence[Element], sentences: Sequence[Sentence], num_options: int) -> None:
    """A list of the options, in order, chooses none, unless it marks one or rejects the others.

    It begins with A or names options at the start of sentences; not with what opens the reply, which may be the answer.
    """
    mentions = [mention for sentence in sentences for mention in sentence.mentions]
    everything = frozenset(chr(ord("A") + n) for n in range(num_options))
    for mention in mentions:
        if mention.group and mention.labels >= everything and num_options > 2:
            mention.role = IGNORED if mention.role != REJECTED else REJECTED
    items = [mention for mention in mentions if not mention.group and _is_item(elements, mention)]
    firsts, ends = [mention.first for mention in mentions], [sentence.end for sentence in sentences]
    start = 0
    while start < len(items):
        end = start + 1
        while end < len(items) and _follows(elements, items[start], items[end - 1], items[end]):
            end += 1
        if end - start > 1:
            stop = min(ends[bisect_right(ends, items[end - 1].last)], items[end - 1].last + _LONGEST_ITEM)
            named = mentions[bisect_left(firsts, items[start].first) : bisect_left(firsts, stop)]
            _read_walk(elements, items[start:end], named, stop)
        start = end


def _follows(elements: Sequence[Element], head: Mention, before: Mention, item: Mention) -> bool:
    """The next item of the walk that ``head`` begins: the next label, or a later one at the start of a sentence."""
    (first,), (last,), (label,) = head.labels, before.labels, item.labels
    if first == "A" and ord(label) == ord(last) + 1:
        return True
    sentences = all(elements[one.first - 1].text in "\n.;" for one in (head, before, item))
    return last < label and head.first > 1 and sentences


def _is_item(elements: Sequence[Element], mention: Mention) -> bool:
    """``A. text``, ``(A) text``, ``A: text``: a label, a mark and something to describe."""
    if elements[mention.first].kind != "label":
        return False
    if mention.first < mention.last:
        return True
    following = elements[mention.first + 1 : mention.first + 3]
    opens = mention.first == 0 or elements[mention.first - 1].kind == "newline"
    if opens and (not following or following[0].kind == "newline" or following[0].text in "✓✗"):
        return True
    if opens and following and following[0].text in ".):" and (len(following) == 1 or following[1].kind == "newline"):
        return True
    if not following or following[0].kind not in ("mark", "text"):
        return False
    if following[0].text == "." and _ends_a_clause(elements, mention):
        return False
    own = len(following) > 1 and following[1].kind == "text" and following[1].labels & mention.labels
    if following[0].kind == "mark" and following[0].text not in (".):]-–=>→}(" if own else ".):]-–=>→}"):
        return False
    return any(one.kind not in ("mark", "newline") for one in following) or elements[mention.first].bracketed


def _ends_a_clause(elements: Sequence[Element], mention: Mention) -> bool:
    """``..., which excludes option B.``"""
    before = reversed(elements[max(0, mention.first - 4) : mention.first])
    led = next((one for one in before if one.text not in "([" and "answer" not in one.tags), None)
    return led is not None and led.kind in ("word", "tag")


def _read_walk(elements: Sequence[Element], items: list[Mention], named: Sequence[Mention], end: int) -> None:
    """Read the items of a walk.

    Args:
        items: the mentions that open them.
        named: all mentions in it; what an item's text names is no choice.
        end: of the sentence of the last item.
    """
    stops = [*(item.first for item in items[1:]), end]
    verdicts = [
        _verdict(elements, item, _less_negation(elements, stop)) for item, stop in zip(items, stops, strict=True)
    ]
    rejected = [n for n, item in enumerate(items) if verdicts[n] is False or item.role == REJECTED]
    right = [n for n, item in enumerate(items) if verdicts[n] is True and item.role != REJECTED]
    head_chosen = not right and rejected == list(range(1, len(items))) and items[0].role == CHOSEN
    opening = {item.first for item in items}
    for mention in named:
        if mention.first not in opening:
            mention.role = IGNORED
    for number, item in enumerate(items):
        if number in rejected:
            item.role = REJECTED
        elif number in right or (number == 0 and head_chosen):
            item.role, item.weak = CHOSEN, False
        else:
            item.role = IGNORED


def _less_negation(elements: Sequence[Element], stop: int) -> int:
    """``A, not B``: the negation before an item is said of it, not of the one before."""
    place = stop - 1
    while place > 0 and elements[place].kind == "mark":
        place -= 1
    return place if elements[place].tags & {"not", "reject"} and elements[place].text != "✗" else stop


def _verdict(elements: Sequence[Element], item: Mention, stop: int) -> bool | None:
    """What an item says of itself: right, wrong or nothing. A label named again inside ends it."""
    pointed = item.first > 0 and elements[item.first - 1].text == "→"
    verdict: bool | None = True if pointed else None
    negated = False
    for one in elements[item.last + 1 : stop]:
        if one.kind == "label":
            break
        if one.kind == "mark" and one.text in ".,;":
            negated = False
        if one.kind != "tag":
            continue
        if one.tags & {"not", "no", "not_after"} and not one.tags & {"right", "wrong"}:
            negated = True
            verdict = False if verdict is None else verdict
            if verdict is True:
                verdict = False
        elif "wrong" in one.tags:
            verdict = None if negated else False
        elif _approves(one) and (verdict is not False or not negated):
            verdict = not negated
    return verdict


def _approves(one: Element) -> bool:
    return "likely" in one.tags or (bool(one.tags & {"right", "yes"}) and "filler" not in one.tags)
