"""What a sentence says of an option that it names: chosen, rejected, only mentioned, or none of these."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.exclusions import Exclusions
from pipelines.evaluate.parsing.statements import (
    CHOSEN,
    EXPLAINED,
    IGNORED,
    PLAIN,
    REJECTED,
    Sentence,
    mentions_of,
)
from pipelines.evaluate.parsing.vocabulary import is_answer_name

_CUES = {"answer", "choose", "right"}
# Beside a label with nothing else in its clause, these present it.
_PRESENTING = {"now", "be", "so", "final", "maybe", "mend", "yes", "choose", "right", "than", "not", "but"}
_SEQUENCE = {"then", "afterwards", "afterward", "later", "next", "subsequently"}
_MODALS = {"might", "could", "may"}
_NEARBY = 20


def read(elements: Sequence[Element], sentence: Sentence, first: bool, last: bool) -> None:
    """Find the mentions of a sentence and the role of each.

    Args:
        elements: of the whole reply.
        sentence: filled in.
        first: it opens the reply.
        last: it closes the reply.
    """
    sentence.mentions = mentions_of(elements, sentence)
    for number, mention in enumerate(sentence.mentions):
        nearby = sentence.mentions[max(0, number - _NEARBY) : number + _NEARBY]
        _Reader(elements, sentence, mention, nearby, first, last).read()
        if number and elements[mention.first - 1].text == "so" and "and" in elements[mention.first - 1].tags:
            mention.role = sentence.mentions[number - 1].role  # B is right, and so is C


class _Reader(Exclusions):
    """The role of one mention in its sentence."""

    def read(self) -> None:
        mention = self.mention
        left, right = self.left() | self.tags(mention.first, mention.last) - {"and", "or"}, self.right()
        before = self.tags(self.clause_start, mention.first)
        mention.hedged = "maybe" in left | right | before or (self._modal() and not self._also())
        announced = bool(left & _CUES) and not (
            not left & {"right", "be", "final", "choose"} and (("list" in left and mention.group) or self._seen(left))
        )
        if self.ignored(left, before):
            mention.role = IGNORED
            if "mend" in left and self.sentence.question:
                mention.hedged = True
            return
        if self.rejected(left, right, before):
            mention.role = REJECTED
            return
        called = self.called_right()
        mention.final = "final" in left | before and (
            mention.kind == "label" or bool(left & _CUES) or self.after_colon()
        )
        mention.final |= called and mention.kind == "label" and self.compares()
        if mention.kind == "label":
            self._read_label(left, right, before, announced, called)
        else:
            self._read_text(left, announced or called)

    def _read_label(self, left: set[str], right: set[str], before: set[str], announced: bool, called: bool) -> None:
        """A label is chosen where the sentence presents it so; else it says nothing."""
        mention = self.mention
        described = announced and not called and self._described(left, right)
        if described and not self.elements[mention.first].bracketed:
            return
        presented = bool((left | right) & _PRESENTING or "undo" in left or before & {"mend", "undo"})
        if announced or called or self.stands(left) or (self.closed and presented):
            mention.role = CHOSEN
            concludes = self.last and ("so" in left or self.after_colon())
            mention.announced = (announced or concludes) and not mention.group
            firm = called and not self._may_be() and not self._modal() and right & {"right", "choose", "yes"}
            mention.weak = described or ((mention.hedged or self._may_be()) and not announced and not firm)
        elif mention.first < mention.last and not mention.group:
            mention.role, mention.weak = CHOSEN, True

    def _read_text(self, left: set[str], presented: bool) -> None:
        """A text is chosen wherever it stands, with less force where nothing presents it."""
        texts = (one for one in self.elements[self.mention.first : self.mention.last + 1] if one.kind == "text")
        functional = any(one.functional for one in texts)
        if self.in_reason() and not presented:
            self.mention.role = EXPLAINED
        elif self._one_of_several(presented):
            self.mention.role = PLAIN
        elif presented or self.closed or self.cleft() or (self.opens() if functional else self.stands(left)):
            self.mention.role, self.mention.bare = CHOSEN, not presented
            self.mention.announced = presented and not self.mention.group
        else:
            self.mention.role = IGNORED if functional else PLAIN

    def _one_of_several(self, presented: bool) -> bool:
        """One more possibility, one event after another, or what *but* leads away from."""
        if self._also() or (self._modal() and self.but_before()):
            return True
        return not presented and (self._then() or (self.closed and self.but_follows()))

    def _seen(self, left: set[str]) -> bool:
        """``he wears the letter D``: a thing in the scene."""
        before = self.elements[self.clause_start : self.mention.first]
        return "sign" in left and any(one.kind == "word" for one in before)

    def _modal(self) -> bool:
        """``it might be B``."""
        return any(one.text in _MODALS for one in self.elements[self.clause_start : self.mention.first])

    def _may_be(self) -> bool:
        """``B may be right``."""
        return any(one.text in _MODALS for one in self.elements[self.mention.last + 1 : self.mention.last + 2])

    def _then(self) -> bool:
        """``then she gets angry``: one event after another."""
        clause = {one.text for one in self.elements[self.clause_start : self.mention.first]}
        others = [one for one in self.sentence.mentions if one.labels != self.mention.labels]
        after = {one.text for one in self.elements[self.mention.last + 1 : self.sentence.end]} if others else set()
        return bool((clause | after) & _SEQUENCE)

    def _also(self) -> bool:
        """``it could also be B``: one more possibility."""
        clause = [one.text for one in self.elements[self.clause_start : self.mention.first]]
        return "also" in clause and bool({"could", "might", "may"} & set(clause))

    def _described(self, left: set[str], right: set[str]) -> bool:
        """``Option B shows ...``: named as an option, and nothing more."""
        if left & {"be", "choose", "right", "final", "so"} or right & {"right", "choose"}:
            return False
        index = self.mention.last + 1
        bracketed = self.elements[self.mention.first].bracketed
        rest = [one for one in self.elements[index + bracketed : self.sentence.end] if one.kind != "newline"]
        noun = next(
            one for one in reversed(self.elements[self.sentence.start : self.mention.last + 1]) if "answer" in one.tags
        )
        if self.after_colon() or is_answer_name(noun.text, strict=True):
            return False
        return bool(rest) and (
            rest[0].kind == "word" or (rest[0].kind == "tag" and bool(rest[0].tags & {"be", "filler"}))
        )
