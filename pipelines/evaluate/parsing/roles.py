"""What a sentence says of an option that it names: chosen, rejected, only mentioned, or none of these."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.statements import (
    CHOSEN,
    EXPLAINED,
    IGNORED,
    PLAIN,
    REJECTED,
    Mention,
    Sentence,
    mentions_of,
)

_CUES = {"answer", "choose", "right"}
_THAT = {"dass", "daß", "что", "że", "that", "hogy", "att", "dat"}
_SOFT_MARKS = ":\"'([{<>–-=→*)]}/✓|"
_REACH = 120


def read(elements: Sequence[Element], sentence: Sentence, first: bool, last: bool) -> None:
    """Find the mentions of a sentence and the role of each.

    Args:
        elements: of the whole reply.
        sentence: filled in.
        first: it opens the reply.
        last: it closes the reply.
    """
    sentence.mentions = mentions_of(elements, sentence)
    for mention in sentence.mentions:
        _Reader(elements, sentence, mention, first, last).read()


class _Reader:
    """The role of one mention in its sentence."""

    def __init__(
        self, elements: Sequence[Element], sentence: Sentence, mention: Mention, first: bool, last: bool
    ) -> None:
        self.elements, self.mention = elements, mention
        # A word farther away than this says nothing of the mention.
        self.sentence = Sentence(
            max(sentence.start, mention.first - _REACH),
            min(sentence.end, mention.last + _REACH),
            sentence.question,
            sentence.opens_line,
        )
        self.first, self.last = first, last

    def read(self) -> None:
        mention = self.mention
        self._walked = self._right_walk()
        left, right = self._left() | self._tags(mention.first, mention.last) - {"and", "or"}, self._right()
        before = self._tags(self._clause_start(), mention.first)
        mention.hedged = "maybe" in left | right | before
        announced = bool(left & _CUES) and not (
            "list" in left and not left & {"right", "be", "final", "choose"} and mention.group
        )
        if self._ignored(left, before):
            mention.role = IGNORED
            if "mend" in left and self.sentence.question:
                mention.hedged = True
            return
        if self._rejected(left, right, before):
            mention.role = REJECTED
            return
        called = self._called_right(right)
        alone = self._closed()
        stands = self._stands(left)
        mention.final = "final" in left | before and (
            mention.kind == "label" or bool(left & _CUES) or self._after_colon()
        )
        functional = any(
            one.functional for one in self.elements[mention.first : mention.last + 1] if one.kind == "text"
        )
        if mention.kind == "label":
            described = announced and self._described(left, right)
            if described and "sign" in left:
                return
            if (
                announced
                or called
                or stands
                or (
                    alone
                    and bool(
                        (left | right)
                        & {"be", "so", "final", "maybe", "mend", "yes", "choose", "right", "than", "not", "but"}
                        or before & {"mend", "undo"}
                    )
                )
            ):
                mention.role = CHOSEN
                mention.weak = (described and not called) or (mention.hedged and not announced and not called)
            return
        if self._in_reason() and not announced and not called:
            mention.role = EXPLAINED
        elif alone and not announced and not called and self._but_follows():
            mention.role = PLAIN
        elif announced or called or alone or (stands and not functional) or (functional and self._opens()):
            mention.role = CHOSEN
        elif functional:
            mention.role = IGNORED
        else:
            mention.role = PLAIN

    def _tags(self, start: int, end: int) -> set[str]:
        return {tag for one in self.elements[start:end] if one.kind == "tag" for tag in one.tags}

    def _left(self) -> set[str]:
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
                if one.tags & {"wrong", "right"} and self._said_of_another(index):
                    break
                tags |= one.tags
            elif one.kind == "mark" and one.text == ",":
                if not self._positive_before(index):
                    tags |= self._denied_before(index)
                    break
            elif one.kind == "newline" or (one.kind == "mark" and one.text in _SOFT_MARKS + ".!"):
                pass
            else:
                break
            index -= 1
        return tags

    def _said_of_another(self, index: int) -> bool:
        """A verdict right behind another mention belongs to that one: ``A wrong B right``."""
        for one in reversed(self.elements[self.sentence.start : index]):
            if one.mention:
                return True
            if one.kind != "tag" or not one.tags & {"be", "not", "filler"}:
                return False
        return False

    def _positive_before(self, comma: int) -> bool:
        """The clause before a comma may announce what follows it, if it names and denies nothing."""
        start = comma
        while start > self.sentence.start and not (
            self.elements[start - 1].kind == "mark" and self.elements[start - 1].text == ","
        ):
            start -= 1
        part = self.elements[start:comma]
        tags = self._tags(start, comma)
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

    def _denied_before(self, comma: int) -> set[str]:
        """``I do not think, that it is B`` with the comma that other languages put there."""
        after = self.elements[comma + 1] if comma + 1 < self.mention.first else None
        if (
            after is None
            or after.text not in _THAT
            or any(one.mention for one in self.elements[self.sentence.start : comma])
        ):
            return set()
        return self._tags(self.sentence.start, comma) & {"not"}

    def _right(self) -> set[str]:
        """Tags of the words behind the mention, up to the first that says something else."""
        return {tag for tags in self._walked for tag in tags}

    def _right_walk(self) -> list[frozenset[str]]:
        walked: list[frozenset[str]] = []
        index = self.mention.last + 1
        while index < self.sentence.end:
            one = self.elements[index]
            if one.kind == "mark" and one.text in "([":
                closing = next(
                    (n for n in range(index, min(index + 40, self.sentence.end)) if self.elements[n].text in ")]"), None
                )
                inner = self._tags(index, closing) if closing else set()
                if closing and any(e.mention for e in self.elements[index:closing]):
                    break
                if closing and not inner & {"right", "wrong", "not", "yes", "no"}:
                    index = closing + 1
                    continue
            elif one.kind == "mark" and one.text in ",:–-.":
                if not self._verdict_at(index + 1):
                    break
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
                walked.append(one.tags)
            else:
                break
            index += 1
        return walked

    def _verdict_at(self, index: int) -> bool:
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

    def _clause_start(self) -> int:
        index = self.mention.first
        while index > self.sentence.start:
            one = self.elements[index - 1]
            if (one.kind == "mark" and one.text in ",;–—:") or (
                one.kind == "tag" and one.tags & {"but", "so", "because"} and not one.tags & {"be", "filler"}
            ):
                break
            index -= 1
        return index

    def _clause_end(self) -> int:
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

    def _ignored(self, left: set[str], before: set[str]) -> bool:
        """Questions, conditions, comparisons, other people's and earlier views."""
        sentence = self.sentence
        if sentence.question and not self._tag_question():
            return True
        if self._compared() or any("than_after" in tags for tags in self._walked[:1]):
            return True
        if any("first" in tags for tags in self._walked) or self._said_by_another():
            return True
        if "first" in self._tags(sentence.start, self.mention.first) & {"first"} and not self._after(
            "but", "mend", "so", "first"
        ):
            return True
        if self._conditional():
            return True
        if "although" in before and not self._after("but", "so", "answer", "although") and self._conceded():
            return True
        if (
            "others" in before
            and before & {"choose", "maybe", "others"}
            and (self.mention.kind == "label" or before & {"choose"})
        ):
            return bool(before & {"choose", "answer"}) or "others" in left
        return "ask" in left and not left & {"be", "right", "choose", "final"} and not left & {"answer"}

    def _after(self, *tags: str) -> bool:
        """One of the first tags stands between the last word tagged ``tags[-1]`` and the mention."""
        *wanted, scope = tags
        seen = False
        for one in self.elements[self.sentence.start : self.mention.first]:
            if one.kind == "tag" and scope in one.tags:
                seen = False
            elif one.kind == "tag" and one.tags & set(wanted):
                seen = True
        return seen

    def _compared(self) -> bool:
        """*Than* stands before the mention; a word that is also *that* counts only behind another mention."""
        part = self.elements[self._clause_start() : self.mention.first]
        for index in range(len(part) - 1, -1, -1):
            one = part[index]
            if one.kind == "tag" and "than" in one.tags:
                if not one.tags & {"filler", "be", "and"}:
                    return True
                if any(earlier.mention for earlier in part[:index]):
                    return True
            if one.mention or (self.mention.kind == "label" and one.kind == "word"):
                return False
        return False

    def _conceded(self) -> bool:
        """The concession names this option and no other before it."""
        for one in reversed(self.elements[self.sentence.start : self.mention.first]):
            if one.mention:
                return False
            if "although" in one.tags:
                return True
        return False

    def _tag_question(self) -> bool:
        """``It is B, isn't it?`` states what it asks about."""
        said = self.elements[self.sentence.start : self.sentence.end]
        commas = [n for n, one in enumerate(said) if one.kind == "mark" and one.text == ","]
        if not commas or self.sentence.start + commas[-1] < self.mention.last or "be" in said[0].tags:
            return False
        tail = [one for one in said[commas[-1] + 1 :] if one.kind != "mark"]
        return 0 < len(tail) <= 3 and all(one.kind == "tag" and not one.tags & {"or", "if"} for one in tail)

    def _said_by_another(self) -> bool:
        """``"B", says he``."""
        following = (one for one in self.elements[self.mention.last + 1 : self.sentence.end] if one.kind != "mark")
        after = next(following, None)
        return after is not None and "others" in after.tags

    def _conditional(self) -> bool:
        reason = False
        for index in range(self.sentence.start, self.sentence.end):
            one = self.elements[index]
            if one.kind != "tag":
                continue
            if "if" in one.tags and not one.tags & {"maybe", "answer", "no", "yes", "final"}:
                opens = index == self.sentence.start or self.elements[index - 1].kind in ("mark", "newline")
                if opens or not one.tags & {"be", "filler", "not"}:
                    return not (reason and self.mention.first < index) and not self._after("but", "if")
            if "because" in one.tags and index > self.mention.last:
                reason = True
        return False

    def _rejected(self, left: set[str], right: set[str], before: set[str]) -> bool:
        negated = bool(left & {"not", "refuse"}) or (("no" in left) and self._directly("no"))
        if (
            left & {"reject"}
            or ("wrong" in left and "answer" in left and not negated)
            or ("wrong" in left and self._heads("wrong"))
        ):
            return not negated or "reject" not in left
        if negated and not ("maybe" in left and not left & {"not", "refuse"}):
            return True
        if self.mention.kind == "text" and before & {"not", "refuse"}:
            return True
        walked = self._walked
        flat = [tag for tags in walked for tag in tags]
        if {"not_after", "reject_after"} & set(flat):
            return True
        if "wrong" in flat:
            position = next(n for n, tags in enumerate(walked) if "wrong" in tags)
            if any("right" in tags for tags in walked[:position]):
                return False
            return not any("not" in tags for tags in walked[:position])
        if flat and any(tags & {"not"} for tags in walked):
            return True
        return (
            bool(walked)
            and bool(walked[-1] & {"no"} or walked[0] & {"no"})
            and not any(tags & {"right", "yes"} for tags in walked)
        )

    def _directly(self, tag: str) -> bool:
        """The word before the mention, articles and copulas aside, is tagged so, with no comma between."""
        for one in reversed(self.elements[self.sentence.start : self.mention.first]):
            if one.kind == "tag" and tag in one.tags:
                return True
            if one.kind != "tag" or not one.tags & {"filler", "be", "answer"}:
                return False
        return False

    def _heads(self, tag: str) -> bool:
        """``wrong: A``: the tag stands before a colon before the mention."""
        part = self.elements[self.sentence.start : self.mention.first]
        colons = [n for n, one in enumerate(part) if one.kind == "mark" and one.text == ":"]
        return bool(colons) and any(tag in one.tags for one in part[: colons[-1]] if one.kind == "tag")

    def _called_right(self, right: set[str]) -> bool:
        walked = self._walked
        flat = {tag for tags in walked for tag in tags}
        if "not" in flat or "wrong" in flat:
            return False
        if flat & {"right", "choose"} or (flat & {"yes"} and self._after_dash()):
            return True
        nouns = [n for n, tags in enumerate(walked) if "answer" in tags]
        if nouns and any("be" in tags or "filler" in tags for tags in walked[: nouns[0] + 1]):
            following = self.elements[self.mention.last + 1 : self.sentence.end]
            return not any(one.mention for one in following[: nouns[0] + 2])
        if nouns and self.elements[self.mention.last + 1].kind == "tag":
            return True
        return "maybe" in flat and "be" in flat

    def _after_dash(self) -> bool:
        nxt = self.elements[self.mention.last + 1] if self.mention.last + 1 < self.sentence.end else None
        return nxt is not None and nxt.kind == "mark"

    def _but_follows(self) -> bool:
        """``X, but Y``: the sentence goes on to another option."""
        seen = False
        for one in self.elements[self.mention.last + 1 : self.sentence.end]:
            if one.mention and seen:
                return True
            seen = seen or "but" in one.tags
        return False

    def _closed(self) -> bool:
        """Nothing in the clause but words without content of their own."""
        start, end = self._clause_start(), self._clause_end()
        return all(one.kind != "word" for one in self.elements[start:end])

    def _after_colon(self) -> bool:
        index = self.mention.first - 1
        while (
            index >= self.sentence.start
            and self.elements[index].kind == "mark"
            and self.elements[index].text in "\"'(["
        ):
            index -= 1
        return index >= self.sentence.start and self.elements[index].text == ":"

    def _opens(self) -> bool:
        """The mention opens the sentence and is set off."""
        before = self.elements[self.sentence.start : self.mention.first]
        if any(
            not (
                one.kind in ("mark", "newline")
                or (
                    one.kind == "tag"
                    and one.tags <= {"yes", "no", "so", "final", "mend", "filler", "be", "maybe"}
                    and self.mention.kind == "label"
                )
            )
            for one in before
        ):
            return False
        return self._set_off()

    def _set_off(self) -> bool:
        index = self.mention.last + 1
        if index >= self.sentence.end:
            return True
        one = self.elements[index]
        if self.elements[self.mention.first].kind == "label" and self.mention.last > self.mention.first:
            return True
        if one.kind == "mark" and one.text in "'\"":
            after = self.elements[index + 1] if index + 1 < self.sentence.end else None
            return after is None or after.kind in ("mark", "newline", "text") or "because" in after.tags
        if one.kind == "newline" or (one.kind == "mark" and one.text not in "*?"):
            return True
        return (
            one.kind == "tag"
            and bool(one.tags & {"because", "mend", "than", "but", "not"})
            and not one.tags & {"filler", "be"}
        )

    def _stands(self, left: set[str]) -> bool:
        """It opens or closes its sentence set off from the rest, where that makes it the answer."""
        sentence, mention = self.sentence, self.mention
        if self._in_reason():
            return False
        if self._opens():
            nxt = self.elements[mention.last + 1] if mention.last + 1 < sentence.end else None
            comma = nxt is not None and nxt.kind == "mark" and nxt.text == ","
            whole = self._closed_sentence()
            return (
                whole or self.first or sentence.opens_line or not comma or (mention.kind == "text" and self._closed())
            )
        return self._closes(left)

    def _closed_sentence(self) -> bool:
        return all(one.kind != "word" for one in self.elements[self.sentence.start : self.sentence.end])

    def _closes(self, left: set[str]) -> bool:
        """``..., B.`` at the end of the reply; ``... so B``; ``...: B`` at the end of the sentence."""
        sentence, mention = self.sentence, self.mention
        if any(one.kind not in ("mark", "newline") for one in self.elements[mention.last + 1 : sentence.end]):
            return False
        before = next(
            (one for one in reversed(self.elements[sentence.start : mention.first]) if one.text not in "\"'"), None
        )
        if ("so" in left and self._closed()) or (mention.kind == "label" and self._it_is()):
            return True
        if before is None or before.kind != "mark":
            return False
        if before.text in ":→=":
            return not left & {"ask", "because", "list"} and self._colon_answers()
        return self.last and before.text in ",–-([" and self._closed()

    def _it_is(self) -> bool:
        """``it is`` stands before the mention."""
        before = self.elements[max(self.sentence.start, self.mention.first - 2) : self.mention.first]
        copula = len(before) == 2 and "be" in before[1].tags and "filler" not in before[1].tags
        return copula and bool(before[0].tags & {"filler"})

    def _colon_answers(self) -> bool:
        part = self.elements[self.sentence.start : self.mention.first]
        return not any(one.kind == "word" for one in part) or self.last

    def _described(self, left: set[str], right: set[str]) -> bool:
        """``Option B shows ...``: named as an option, and nothing more."""
        if left & {"be", "choose", "right", "final", "so"} or right & {"right", "choose"}:
            return False
        index = self.mention.last + 1
        rest = [one for one in self.elements[index : self.sentence.end] if one.kind not in ("newline",)]
        if self._after_colon():
            return False
        return (
            bool(rest)
            and (rest[0].kind == "word" or (rest[0].kind == "tag" and bool(rest[0].tags & {"be", "filler"})))
            and self.elements[self.mention.first].bracketed is False
        )

    def _in_reason(self) -> bool:
        return any(
            one.kind == "tag" and "because" in one.tags and not one.tags & {"filler", "be"}
            for one in self.elements[self.sentence.start : self.mention.first]
        ) and not self._after("so", "answer", "choose", "because")
