"""The words around an option in its sentence: what leads up to it, what follows it, and where its clause ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.statements import Mention, Sentence

_THAT = {"dass", "daß", "что", "że", "that", "hogy", "att", "dat"}
IT_IS = {"its", "thats", "itd", "itll", "thatd", "thatll", "cest"}
_PLACES = {"at", "in", "on", "from", "by"}
_SOFT_MARKS = ":\"'([{<>–-=→*)]}/✓|"
_REACH = 60
_FAR = 2000
_RELATIVE = 20


class Surroundings:
    """The sentence around one mention.

    Attributes:
        first: the sentence opens the reply.
        last: it closes the reply.
        walked: tags of the words behind the mention, up to the first that says something else.
    """

    def __init__(
        self,
        elements: Sequence[Element],
        sentence: Sentence,
        mention: Mention,
        nearby: Sequence[Mention],
        first: bool,
        last: bool,
    ) -> None:
        self.elements, self.mention = elements, mention
        # A word farther away than this says nothing of the mention.
        self.sentence = Sentence(
            max(sentence.start, mention.first - _REACH),
            min(sentence.end, mention.last + _REACH),
            sentence.question,
            sentence.opens_line,
            list(nearby),
        )
        self.far = max(0, mention.first - _FAR)
        self.first, self.last = first, last
        self.walked = self.right_walk()

    def tags(self, start: int, end: int) -> set[str]:
        return {tag for one in self.elements[start:end] if one.kind == "tag" for tag in one.tags}

    def left(self) -> set[str]:
        """Tags of the words before the mention, back to the first that says something else."""
        tags: set[str] = set()
        index = self.mention.first - 1
        while index >= self.sentence.start:
            one = self.elements[index]
            if one.kind == "tag":
                if one.tags & {"because", "but", "although", "if", "and", "or"} and not one.tags & {
                    "answer",
                    "be",
                    "filler",
                    "right",
                }:
                    tags |= one.tags & {"because", "but"}
                    break
                if one.tags & {"not_after", "reject_after", "than_after"} and not one.tags & {"not", "reject"}:
                    break
                if one.tags & {"wrong", "right", "yes", "no"} and self.said_of_another(index):
                    break
                after = self.elements[index + 1].kind
                tags |= one.tags - {"not"} if "no" in one.tags and after == "mark" else one.tags
            elif one.kind == "mark" and one.text == ",":
                if not self.positive_before(index):
                    tags |= self.denied_before(index)
                    break
            elif one.kind == "newline" or (one.kind == "mark" and one.text in _SOFT_MARKS + ".!"):
                pass
            elif one.text.isdigit() and index > self.sentence.start and "answer" in self.elements[index - 1].tags:
                pass  # answer 2: B
            else:
                break
            index -= 1
        return tags

    def said_of_another(self, index: int) -> bool:
        """A verdict right behind another mention belongs to that one: ``A wrong B right``."""
        for one in reversed(self.elements[self.sentence.start : index]):
            if one.mention:
                return True
            aside = one.kind == "mark" and one.text in ":-–(["
            if not aside and (one.kind != "tag" or not one.tags & {"be", "not", "filler"}):
                return False
        return False

    def positive_before(self, comma: int) -> bool:
        """The clause before a comma may announce what follows it, if it names and denies nothing."""
        start = comma
        while start > self.sentence.start and not (
            self.elements[start - 1].kind == "mark" and self.elements[start - 1].text == ","
        ):
            start -= 1
        part = self.elements[start:comma]
        tags = self.tags(start, comma)
        return not any(one.mention for one in part) and not tags & {
            "not",
            "wrong",
            "reject",
            "than",
            "if",
            "although",
            "because",
            "refuse",
            "no",
            "ask",
        }

    def denied_before(self, comma: int) -> set[str]:
        """``I do not think, that it is B`` with the comma that other languages put there."""
        after = self.elements[comma + 1] if comma + 1 < self.mention.first else None
        if (
            after is None
            or after.text not in _THAT
            or any(one.mention for one in self.elements[self.sentence.start : comma])
        ):
            return set()
        return self.tags(self.sentence.start, comma) & {"not"}

    def right(self) -> set[str]:
        """Tags of the words behind the mention, up to the first that says something else."""
        return {tag for tags in self.walked for tag in tags}

    def right_walk(self) -> list[frozenset[str]]:
        walked: list[frozenset[str]] = []
        index = self.mention.last + 1
        while index < self.sentence.end:
            one = self.elements[index]
            if one.kind == "mark" and one.text in "([":
                closing = next(
                    (n for n in range(index, min(index + 40, self.sentence.end)) if self.elements[n].text in ")]"), None
                )
                inner = self.tags(index, closing) if closing else set()
                if closing and any(e.mention for e in self.elements[index:closing]):
                    break
                said = closing is not None and any(e.kind == "word" for e in self.elements[index:closing])
                if closing and (said or not inner & {"right", "wrong", "not", "yes", "no"}):
                    index = closing + 1
                    continue
            elif one.text == "," and (resumed := self._behind_relative(index)):
                index = resumed
                continue
            elif one.kind == "mark" and one.text in ",:–-.":
                if not self.verdict_at(index + 1):
                    break
            elif one.text == "→" and self.verdict_at(index + 1):
                index += 1
                continue
            elif one.kind == "mark" and one.text in "\"')]}>*✓✗=→<|":
                pass
            elif one.kind == "tag":
                if one.tags & {
                    "because",
                    "but",
                    "although",
                    "if",
                    "and",
                    "or",
                    "than",
                    "so",
                    "mend",
                    "undo",
                } and not one.tags & {"be", "answer", "right", "filler", "not_after"}:
                    break
                if not walked and one.tags & {"not", "no"} and self._before_mention(index):
                    break  # B, not A
                walked.append(one.tags)
            else:
                break
            index += 1
        return walked

    def _before_mention(self, index: int) -> bool:
        return index + 1 < self.sentence.end and self.elements[index + 1].mention

    def _behind_relative(self, comma: int) -> int:
        """Where the sentence goes on behind ``, which mentions a piano,`` or ``, unlike C,``; 0 without one."""
        part = self.elements[comma + 1 : min(comma + _RELATIVE, self.sentence.end)]
        compares = bool(part) and "than" in part[0].tags
        if not part or not (compares or part[0].text in ("which", "who")):
            return 0
        closing = next((n for n, one in enumerate(part) if one.text == "," or (one.mention and not compares)), None)
        if closing is None or part[closing].mention:
            return 0
        return comma + 1 + closing + 1

    def verdict_at(self, index: int) -> bool:
        """A verdict on what stands before: ``A: wrong``, ``A, which is right``."""
        while index < self.sentence.end and (
            (self.elements[index].kind == "mark" and self.elements[index].text in "(\"'[")
            or (
                self.elements[index].kind == "tag"
                and self.elements[index].tags & {"be", "filler", "maybe", "not"}
                and not self.elements[index].tags & {"right", "wrong", "no", "yes"}
            )
        ):
            index += 1
        if index >= self.sentence.end or self.elements[index].kind != "tag":
            return False
        tags = self.elements[index].tags
        if not tags & {"right", "wrong", "no", "yes"}:
            return False
        rest = self.elements[index + 1 : self.sentence.end]
        upto = next((n for n, one in enumerate(rest) if one.kind == "mark" and one.text in ",;.–"), len(rest))
        return not any(one.mention for one in rest[:upto]) and not any(
            "answer" in one.tags for one in rest[:upto] if "be" in tags
        )

    @cached_property
    def clause_start(self) -> int:
        index = self.mention.first
        while index > self.sentence.start:
            one = self.elements[index - 1]
            if (one.kind == "mark" and one.text in ",;–—:") or (
                one.kind == "tag" and one.tags & {"but", "so", "because"} and not one.tags & {"be", "filler"}
            ):
                break
            index -= 1
        return index

    @cached_property
    def clause_end(self) -> int:
        index = self.mention.last + 1
        while index < self.sentence.end:
            one = self.elements[index]
            if (one.kind == "mark" and one.text in ",;–—:.!?(") or (
                one.kind == "tag"
                and one.tags & {"but", "so", "because", "although", "mend", "if"}
                and not one.tags & {"be", "filler", "answer"}
            ):
                break
            index += 1
        return index

    def after(self, *tags: str) -> bool:
        """One of the first tags stands between the last word tagged ``tags[-1]`` and the mention."""
        *wanted, scope = tags
        seen = False
        for one in self.elements[self.sentence.start : self.mention.first]:
            if one.kind == "tag" and scope in one.tags:
                seen = False
            elif one.kind == "tag" and one.tags & set(wanted):
                seen = True
        return seen

    def directly(self, tag: str) -> bool:
        """The word before the mention, articles and copulas aside, is tagged so, with no comma between."""
        for one in reversed(self.elements[self.sentence.start : self.mention.first]):
            if one.kind == "tag" and tag in one.tags:
                return True
            if one.kind != "tag" or not one.tags & {"filler", "be", "answer"}:
                return False
        return False

    def heads(self, tag: str) -> bool:
        """``wrong: A``: the tag stands before a colon before the mention."""
        part = self.elements[self.sentence.start : self.mention.first]
        colons = [n for n, one in enumerate(part) if one.kind == "mark" and one.text == ":"]
        return bool(colons) and any(tag in one.tags for one in part[: colons[-1]] if one.kind == "tag")

    def after_dash(self) -> bool:
        nxt = self.elements[self.mention.last + 1] if self.mention.last + 1 < self.sentence.end else None
        return nxt is not None and nxt.kind == "mark"

    @cached_property
    def closed(self) -> bool:
        """Nothing in the clause but words without content of their own."""
        start, end = self.clause_start, self.clause_end
        return all(one.kind != "word" for one in self.elements[start:end])

    def after_colon(self) -> bool:
        index = self.mention.first - 1
        while (
            index >= self.sentence.start
            and self.elements[index].kind == "mark"
            and self.elements[index].text in "\"'(["
        ):
            index -= 1
        return index >= self.sentence.start and self.elements[index].text == ":"

    def opens(self) -> bool:
        """The mention opens the sentence and is set off."""
        before = self.elements[self.sentence.start : self.mention.first]
        if before and before[-1].text in _PLACES:
            return False
        if any(
            not (
                one.kind in ("mark", "newline")
                or (
                    one.kind == "tag"
                    and one.tags <= {"yes", "no", "so", "final", "mend", "filler", "be", "maybe", "now"}
                    and self.mention.kind == "label"
                )
            )
            for one in before
        ):
            return False
        return self.set_off()

    def set_off(self) -> bool:
        index = self.mention.last + 1
        if index >= self.sentence.end:
            return True
        one = self.elements[index]
        if self.elements[self.mention.first].kind == "label" and self.mention.last > self.mention.first:
            return True
        if one.kind == "mark" and one.text in "'\"":
            after = self.elements[index + 1] if index + 1 < self.sentence.end else None
            return after is None or after.kind in ("mark", "newline", "text") or "because" in after.tags
        if "grounds" in one.tags and self.first and self.mention.first == 0 and self.mention.kind == "label":
            return True
        if "and" in one.tags and self.tags(index + 1, index + 2) & {"not"}:
            return True
        if one.kind in ("newline", "text") or (one.kind == "mark" and one.text not in "*?"):
            return True
        if one.text == "→":
            return not any(other.mention for other in self.elements[index : self.sentence.end])
        return (
            one.kind == "tag"
            and bool(one.tags & {"because", "mend", "than", "but", "not"})
            and not one.tags & {"filler", "be"}
        )

    def closed_sentence(self) -> bool:
        return all(one.kind != "word" for one in self.elements[self.sentence.start : self.sentence.end])

    def it_is(self) -> bool:
        """``it is`` stands before the mention."""
        before = self.elements[max(self.sentence.start, self.mention.first - 2) : self.mention.first]
        if before and before[-1].text in IT_IS:
            return True
        copula = len(before) == 2 and "be" in before[1].tags and "filler" not in before[1].tags
        return copula and bool(before[0].tags & {"filler"})
