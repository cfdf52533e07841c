"""Elements -> sentences, and the places in them that name options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.evaluate.parsing.elements import Element

# How a sentence holds an option.
CHOSEN, PLAIN, EXPLAINED, REJECTED, IGNORED = "chosen", "plain", "explained", "rejected", "ignored"
# Between two options these words keep them from being one group.
_SEPARATES = set(
    [
        "choose",
        "be",
        "so",
        "right",
        "wrong",
        "final",
        "but",
        "than",
        "than_after",
        "not",
        "not_after",
        "reject",
        "reject_after",
        "mend",
        "no",
        "because",
    ]
)
_SINGLES_OUT = ("only", "just")
_LONGEST_HEADING = 40
_SENTENCE_ENDS = ".!?;"
_ABBREVIATED = {"vs", "ans", "opt", "resp", "approx", "cf"}


@dataclass(slots=True)
class Mention:
    """One place that names an option, or several joined by *and* or *or*.

    Attributes:
        labels: more than one for a group that chooses none, or for a text that options share.
        kind: label or text; a label beside its own text is a label.
        role: CHOSEN, PLAIN (a text in a sentence), EXPLAINED (inside a reason), REJECTED or IGNORED.
        hedged: said with doubt.
        final: said to be final.
        group: several options named together.
        weak: called so with less force than by an announcement.
        bare: a text that is chosen only because it stands alone.
        announced: a label that is called the answer.
        complete: a group whose last member has been joined by *and* or *or*.
    """

    labels: frozenset[str]
    kind: str
    first: int
    last: int
    role: str = IGNORED
    hedged: bool = False
    final: bool = False
    group: bool = False
    weak: bool = False
    bare: bool = False
    announced: bool = False
    complete: bool = False


@dataclass
class Sentence:
    """Elements ``start`` to ``end`` and the mentions among them."""

    start: int
    end: int
    question: bool = False
    opens_line: bool = True
    mentions: list[Mention] = field(default_factory=list)


def sentences_of(elements: Sequence[Element]) -> list[Sentence]:
    """Split at the ends of sentences and lines; a heading that announces belongs to the line below it."""
    sentences, start, opens_line = [], 0, True
    for index, element in enumerate(elements):
        if element.kind == "newline":
            if index - start < 2 * _LONGEST_HEADING and _announces_only(elements[start:index]):
                continue
            end = True
        else:
            end = element.kind == "mark" and element.text in _SENTENCE_ENDS and not _label_mark(elements, start, index)
            end = end and not (element.text == "." and index and elements[index - 1].text.casefold() in _ABBREVIATED)
        if end:
            if any(one.kind not in ("mark", "newline") or one.text == "?" for one in elements[start : index + 1]):
                sentences.append(Sentence(start, index + 1, element.text == "?", opens_line))
            opens_line = element.kind == "newline" or (opens_line and start == index)
            start = index + 1
    if any(one.kind not in ("mark", "newline") for one in elements[start:]):
        sentences.append(Sentence(start, len(elements), False, opens_line))
    return sentences


def _announces_only(elements: Sequence[Element]) -> bool:
    """A line such as *Answer:* or *The correct option is*."""
    said = [one for one in elements if one.kind not in ("mark", "newline")]
    if not 0 < len(said) <= _LONGEST_HEADING or any(one.kind != "tag" for one in said):
        return False
    tags = frozenset[str]().union(*(one.tags for one in said))
    if any("list" in one.tags for one in said) and not tags & {"right", "final", "be", "choose"}:
        return False
    return bool(tags & {"answer", "final", "choose"}) and not tags & {"not", "wrong", "refuse", "because", "ask"}


def _label_mark(elements: Sequence[Element], start: int, index: int) -> bool:
    """The dot of ``B. text``: behind a label that opens the sentence, with something behind it on the line."""
    if elements[index].text != "." or index + 1 >= len(elements) or elements[index + 1].kind == "newline":
        return False
    if elements[index + 1].kind == "label" or elements[index + 1].tags & {"mend", "undo"}:
        return False
    before = elements[start:index]
    said = [one for one in before if not (one.kind == "mark" and one.text in "(['\"{<)]}>")]
    if len(said) == 1 and said[0].kind == "label":
        return True
    return (
        bool(said)
        and said[-1].kind == "label"
        and elements[index + 1].kind == "text"
        and bool(elements[index + 1].labels & said[-1].labels)
    )


def mentions_of(elements: Sequence[Element], sentence: Sentence) -> list[Mention]:
    """The places of a sentence that name options: first a label beside its text as one, then groups of those."""
    mentions = [
        Mention(one.labels, one.kind, index, index, group=len(one.labels) > 1 and one.kind == "text")
        for index, one in enumerate(elements[sentence.start : sentence.end], start=sentence.start)
        if one.mention
    ]
    return _joined(elements, _joined(elements, mentions, _same_option), _group)


def _joined(
    elements: Sequence[Element],
    mentions: Sequence[Mention],
    join: Callable[[Sequence[Element], Mention, Mention], Mention | None],
) -> list[Mention]:
    joined: list[Mention] = []
    for mention in mentions:
        if joined and (both := join(elements, joined[-1], mention)):
            joined[-1] = both
        else:
            joined.append(mention)
    return joined


def _same_option(elements: Sequence[Element], left: Mention, right: Mention) -> Mention | None:
    """A label with its own text, or the same option twice."""
    between = elements[left.last + 1 : right.first]
    shared = left.labels & right.labels
    beside = all(
        (one.kind in ("mark", "newline") and one.text not in "?;") or one.tags & {"be", "filler", "answer", "right"}
        for one in between
    ) and not any(one.tags & {"not", "not_after"} for one in between)
    again = left.kind == right.kind and len(right.labels) == 1 and _marks_only(between)
    listed = left.first > 0 and elements[left.first - 1].tags & {"and", "or"}  # of B and C, C
    again = again and not listed and not any(one.text == ":" for one in between)
    if not shared or left.group or not beside or not (left.kind != right.kind or again):
        return None
    kind = "label" if "label" in (left.kind, right.kind) else "text"
    return Mention(shared, kind, left.first, right.last)


def _marks_only(between: Sequence[Element]) -> bool:
    return all(one.kind in ("mark", "newline") or one.tags & {"filler"} or one.text in "/" for one in between)


def _group(elements: Sequence[Element], left: Mention, right: Mention) -> Mention | None:
    """Options joined by *and*, *or*, a comma or a slash."""
    between = elements[left.last + 1 : right.first]
    told = left.group and left.kind == "label" and right.kind == "text" and left.labels & right.labels
    if told and _marks_only(between):
        return Mention(left.labels, "label", left.first, right.last, group=True)
    joined = len(between) == 1 and between[0].tags & {"and", "or"}  # red and B
    if left.kind != right.kind and not left.group and not joined:
        return None
    between = _less_remarks(between, elements[right.last + 1 : right.last + 2])
    inside = any(one.text == "(" for one in between) and not any(one.text == ")" for one in between)
    if inside and left.kind == "label" and any(one.tags & {"and", "or"} for one in between):
        return None  # B (and possibly C)
    connected = bool(between) and all(one.text == "then" for one in between)
    lead = elements[left.first - 1].tags if left.first else frozenset()
    beyond = elements[right.last + 1 : right.last + 2]
    apart = left.complete or lead & {"than", "although", "mend"} or _starts_anew(elements, left, right)
    for one in between:
        if one.kind == "mark" and one.text in ",/&|":
            connected = not (one.text == "," and apart)
        elif one.text in _SINGLES_OUT and left.labels != right.labels:
            return None
        elif one.text in ("i", "does") or "now" in one.tags:
            return None  # some answer B, I answer C; C does, A does not; first B, now C
        elif one.tags & {"and", "or"} and not one.tags & {"mend", "but"}:
            connected = True
        elif not (
            (one.kind == "mark" and one.text in "()[]\"'.")
            or (one.tags & {"filler", "answer", "maybe"} and not one.tags & _SEPARATES)
        ):
            return None
    if beyond and beyond[0].text == "being":
        return None
    if connected or (not between and left.kind == right.kind):
        labels = left.labels | right.labels
        complete = left.complete or any(one.tags & {"and", "or"} for one in between)
        return Mention(labels, right.kind, left.first, right.last, group=len(labels) > 1, complete=complete)
    return None


def _starts_anew(elements: Sequence[Element], left: Mention, right: Mention) -> bool:
    """``not A, B.`` and ``because X, Y.``: what closes the sentence behind the comma is said of its own accord."""
    beyond = elements[right.last + 1 : right.last + 2]
    lead = elements[max(0, left.first - 2) : left.first]
    denied = bool(lead) and "not" in lead[-1].tags
    reason = right.kind == "text" and any("because" in one.tags for one in lead)
    return (denied or reason) and not left.group and (not beyond or beyond[0].text in ".!")


def _less_remarks(between: Sequence[Element], after: Sequence[Element]) -> Sequence[Element]:
    """Without the remark in ``A (80 %), B (20 %)``, where B is set off."""
    if not between or between[0].text != "(" or (after and after[0].kind not in ("mark", "newline")):
        return between
    closing = next((n for n, one in enumerate(between) if one.text == ")"), None)
    if closing is None or any(one.tags & _SEPARATES for one in between[:closing]):
        return between
    return between[closing + 1 :]
