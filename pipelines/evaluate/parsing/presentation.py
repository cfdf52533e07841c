"""How a sentence presents an option as the choice: announced by a subject, called right, set off at an end."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.statements import REJECTED
from pipelines.evaluate.parsing.surroundings import Surroundings

_FIRST_PERSON = {"i", "id", "ill", "im", "ive", "my"}
_SPEAKERS = _FIRST_PERSON | {"we", "well", "our", "me", "youre"}
# Behind these the speaker does not act on an option.
_NOT_ACTS = {
    "a", "an", "the", "see", "saw", "hear", "heard", "notice", "noticed", "spot", "read", "know", "of", "from", "in",
    "at", "about", "against", "into", "around", "near", "behind", "past", "beyond", "regarding", "concerning", "off",
}  # fmt: skip
_STATES = {"be", "am", "im", "was", "were", "been", "are", "ive", "have", "had"}
_RELATIVES = {"that", "which", "with", "involving", "showing", "where"}
# What may stand before the noun of ``the answer ... is B``, and what may not stand behind it.
_LEADS = {"filler", "so", "final", "maybe", "right", "be"}
_DENIES = {"not", "wrong", "reject", "first", "others", "if", "although"}
_PREPOSITIONS = {"to", "of", "in", "on", "at", "for", "from", "with", "by", "as", "like", "the", "a", "an"}
_ELLIPSES = (["does"], ["did"], ["do"], ["is"], ["it", "is"], ["works"], ["holds"])
# What questions ask for; it can be a label.
_SUBJECTS = {
    "what", "reason", "cause", "explanation", "motive", "purpose", "goal", "action", "activity", "event",
    "emotion", "mood", "order", "sequence", "place", "location", "thing", "topic", "theme", "weather", "season",
    "statement", "description", "caption", "title", "summary", "relationship", "profession", "result", "outcome",
    "difference", "sport", "dish", "number", "count", "total",
}  # fmt: skip
_ONLY = {"only", "just"}
_COMPARATIVES = {"better", "more", "closer", "stronger", "likelier"}
_HAS = {"has", "gets", "receives", "enjoys", "offers"}
_LESSER = {
    "least", "worst", "second", "last", "third", "initial", "first", "previous", "original", "earlier", "longest",
    "shortest", "other", "next", "same",
}  # fmt: skip
_SUPERLATIVES = {"best", "better", "strongest", "highest", "closest", "closer", "perfectly", "exactly", "accurately"}
# Words of a predicate within which an option is called the answer.
_PREDICATE = 9


class Presentation(Surroundings):
    """What speaks for one mention in its sentence."""

    def called_right(self) -> bool:
        """Its predicate calls it right, or the choice."""
        walked = self.walked
        flat = {tag for tags in walked for tag in tags}
        if "not" in flat or "wrong" in flat:
            return False
        if flat & {"right", "choose"} or (flat & {"yes"} and self.after_dash()):
            return True
        nouns = [n for n, tags in enumerate(walked) if "answer" in tags]
        if nouns and any("be" in tags or "filler" in tags for tags in walked[: nouns[0] + 1]):
            following = self.elements[self.mention.last + 1 : self.sentence.end]
            return not any(one.mention for one in following[: nouns[0] + 2])
        if nouns and self.elements[self.mention.last + 1].kind == "tag":
            return True
        if "maybe" in flat and ("be" in flat or self._words_before() & {"find", "making", "makes", "make"}):
            return True
        return self._praised() or self._alone_suits() or self._singled_out()

    def _praised(self) -> bool:
        """``B seems like the most sensible choice``, ``C comes closest``: whatever the other words are."""
        seen: set[str] = set()
        words: set[str] = set()
        for one in self.elements[self.mention.last + 1 : min(self.clause_end, self.mention.last + _PREDICATE)]:
            if one.mention or one.tags & {"not", "wrong", "no", "if"}:
                return False
            if "than" in one.tags:
                break
            if {"be", "the"} <= seen and "answer" in one.tags:
                return not words & _LESSER and not one.text.endswith("s")
            if {"be", "the"} <= seen and "right" in one.tags and self.mention.kind == "label":
                return not words & _LESSER  # B is the statement that fits
            if "be" in seen and one.text in ("i", "id", "ill", "we"):
                return self.mention.kind == "label" and not self.mention.group  # B is where I land
            seen |= one.tags | ({"the"} if one.text in ("the", "my") else set())
            words.add(one.text)
        praise = words & _SUPERLATIVES or (("be" in seen or words & _HAS) and words & {"more", "most"})
        return bool(praise) and self.mention.kind == "label" and not self.mention.group

    def _alone_suits(self) -> bool:
        """``Only B is visible``."""
        before = self.elements[max(self.sentence.start, self.mention.first - 2) : self.mention.first]
        only = any(one.text in _ONLY for one in before if one.kind == "tag")
        return only and any("be" in tags for tags in self.walked[:1]) and not self.mention.group

    def _singled_out(self) -> bool:
        """``both B and C ..., but B is ...``: one of a group, set against it."""
        group = any(m.group and m.labels > self.mention.labels for m in self.sentence.mentions)
        after = self.elements[self.mention.last + 1 : self.mention.last + 2]
        against = self.but_before() and bool(after) and bool(after[0].tags & {"be", "filler"})
        return group and (against or self.elements[self.sentence.start].text in ("of", "between", "among"))

    def but_before(self) -> bool:
        """``X, but Y``: the sentence comes from another option."""
        before = self.elements[self.sentence.start : self.mention.first]
        buts = [n for n, one in enumerate(before) if "but" in one.tags]
        return bool(buts) and any(one.mention for one in before[: buts[-1]])

    def but_follows(self) -> bool:
        """``X, but Y``: the sentence goes on to another option."""
        seen = False
        for one in self.elements[self.mention.last + 1 : self.sentence.end]:
            if one.mention and seen:
                return True
            seen = seen or "but" in one.tags
        return False

    def stands(self, left: set[str]) -> bool:
        """It opens or closes its sentence set off from the rest, where that makes it the answer."""
        sentence, mention = self.sentence, self.mention
        if self.in_reason():
            return False
        if mention.first == self.clause_start and self._does():
            return True
        if self.opens():
            nxt = self.elements[mention.last + 1] if mention.last + 1 < sentence.end else None
            comma = nxt is not None and nxt.kind == "mark" and nxt.text == ","
            whole = self.closed_sentence()
            return whole or self.first or sentence.opens_line or not comma or (mention.kind == "text" and self.closed)
        if mention.kind == "label" and not mention.group and (self._it_was() or self._taken_over_another()):
            return True
        return self._closes(left)

    def _taken_over_another(self) -> bool:
        """``I would take B over C``."""
        return "than" in self.tags(self.mention.last + 1, self.mention.last + 2) and self._first_person()

    def _it_was(self) -> bool:
        """``it was B all along``."""
        part = [one.text for one in self.elements[self.sentence.start : self.mention.first] if one.kind != "mark"]
        return part in (["it", "was"], ["it", "is"], ["its"])

    def _closes(self, left: set[str]) -> bool:
        """``..., B.`` at the end of the reply; ``... so B``; ``...: B`` at the end of the sentence."""
        sentence, mention = self.sentence, self.mention
        if any(one.kind not in ("mark", "newline") for one in self.elements[mention.last + 1 : sentence.end]):
            return False
        before = next(
            (one for one in reversed(self.elements[sentence.start : mention.first]) if one.text not in "\"'"), None
        )
        if ("so" in left and self.closed) or (mention.kind == "label" and self._is_complement()):
            return True
        if before is None or before.kind != "mark":
            return False
        if before.text in ":→=":
            return not left & {"ask", "because", "list"} and self._colon_answers()
        others = [one for one in sentence.mentions if one is not mention and one.role != REJECTED]
        remark = mention.kind == "label" and before.text in "([-–" and not others
        ends = self.last or self.elements[sentence.end - 1].text == ";"
        return ends and before.text in ",–-([" and (self.closed or remark)

    def _is_complement(self) -> bool:
        """``it is B``; of other subjects only where B was named as a label before or *but* leads up to it."""
        if self.it_is():
            return True
        if self.mention.group or self.mention.first == self.sentence.start:
            return False
        place = self.mention.first - 1
        while place > self.sentence.start and self.elements[place].text in "([\"'":
            place -= 1
        verb = self.elements[place]
        while place > self.sentence.start and verb.tags & {"maybe", "filler"} and "be" not in verb.tags:
            place -= 1
            verb = self.elements[place]
        if verb.kind == "tag" and "be" in verb.tags and "not" not in verb.tags:
            named = (one for one in self.elements[self.far : self.mention.first] if one.kind == "label")
            joined = self.mention.first < self.mention.last
            return (
                joined
                or self._replaces()
                or bool(_SUBJECTS & self._words_before())
                or self._answer_is_subject(place)
                or any(one.labels & self.mention.labels for one in named)
            )
        leads = verb.text not in _PREPOSITIONS and "and" not in verb.tags and self._replaces()
        return leads or self._first_person()

    def _replaces(self) -> bool:
        """``..., but ... B``: the clause opens with *but* behind another label."""
        start = self.clause_start
        lead = self.elements[max(self.sentence.start, start - 1) : start + 1]
        return any("but" in one.tags for one in lead) and any(
            one.kind == "label" for one in self.elements[self.sentence.start : start]
        )

    def _answer_is_subject(self, verb: int) -> bool:
        """``the answer I would give is B``, ``the answer, judging by the plates, is B``."""
        subject = self.elements[self.sentence.start : verb]
        noun = next((n for n, one in enumerate(subject) if one.kind != "mark" and not one.tags & _LEADS), 0)
        rest = subject[noun + 1 :]
        if not subject or "answer" not in subject[noun].tags or any(one.mention or one.tags & _DENIES for one in rest):
            return False
        aside = bool(rest) and (rest[0].text in ",(–" or rest[0].text in _RELATIVES)
        return aside or any(one.text in _SPEAKERS | {"among", "of", "to"} or "right" in one.tags for one in rest)

    def _first_person(self) -> bool:
        """``I'd put my money on C``: what the speaker does with an option, unless that is a thing's name."""
        part = [one for one in self.elements[self.clause_start : self.mention.first] if one.kind != "mark"]
        if any(one.mention or one.tags & _DENIES for one in part):
            return False
        if part[-1:] and part[-1].text in _NOT_ACTS:
            return False
        speaks = any(one.text in _SPEAKERS for one in part[:2])
        return self._led_to(part) or (speaks and self._acts(part))

    @staticmethod
    def _acts(part: Sequence[Element]) -> bool:
        """The unknown words are what the speaker does: no state, no *let me*; right before the option no past."""
        words = [n for n, one in enumerate(part) if one.kind == "word"]
        states = (n for n in words if n and part[n - 1].text in _STATES and not part[n].text.endswith("ing"))
        if next(states, None) is not None or any(one.text == "let" for one in part):
            return False
        return part[-1].kind == "tag" or (len(words) == 1 and not part[-1].text.endswith(("s", "ed")))

    @staticmethod
    def _led_to(part: Sequence[Element]) -> bool:
        """``this brings us to B``."""
        ours = any(one.text in ("us", "me") for one in part)
        return ours and part[0].text in ("this", "that", "it", "which") and part[-1].text in ("to", "at", "with")

    def _words_before(self) -> set[str]:
        return {one.text for one in self.elements[self.sentence.start : self.mention.first]}

    def cleft(self) -> bool:
        """``It is the cat that jumps``."""
        before = [one for one in self.elements[self.sentence.start : self.mention.first] if one.kind != "mark"]
        copula = [n for n, one in enumerate(before) if "be" in one.tags]
        if not copula or any(one.kind != "tag" or one.tags & {"not", "or", "if"} for one in before):
            return False
        after = self.elements[self.mention.last + 1 : self.mention.last + 2]
        it = before[copula[0]].text in ("its", "cest") or (copula[0] > 0 and before[copula[0] - 1].text == "it")
        return it and bool(after) and after[0].text in ("that", "who", "which", "whom")

    def _does(self) -> bool:
        """``C does``, ``C obviously``."""
        said = [one.text for one in self.elements[self.mention.last + 1 : self.clause_end] if one.kind != "mark"]
        empty = {"filler", "maybe", "yes", "final"}
        rest = self.elements[self.mention.last + 1 : self.sentence.end]
        return said in _ELLIPSES or (
            self.mention.first == self.sentence.start
            and self.mention.kind == "label"
            and all(one.kind == "mark" or (one.tags and one.tags <= empty) for one in rest)
        )

    def _colon_answers(self) -> bool:
        part = self.elements[self.sentence.start : self.mention.first]
        return not any(one.kind == "word" for one in part) or self.last

    def compares(self) -> bool:
        """``but E is more accurate``: of two, this one."""
        predicate = self.elements[self.mention.last + 1 : self.clause_end]
        return any(one.text in _COMPARATIVES for one in predicate[:4])

    def in_reason(self) -> bool:
        return any(
            "because" in one.tags and not one.tags & {"filler", "be"} and one.text not in _SUBJECTS
            for one in self.elements[self.sentence.start : self.mention.first]
        ) and not (self.after("so", "but", "answer", "choose", "because") or self._main_clause())

    def _main_clause(self) -> bool:
        """``since a knife is seen, B``: the option alone behind the comma that ends the reason."""
        start, end = self.clause_start, self.clause_end
        comma = start > self.sentence.start and self.elements[start - 1].text == ","
        before, after = self.elements[start : self.mention.first], self.elements[self.mention.last + 1 : end]
        joined = all(one.text in ("the", "a", "an") for one in before) and all(one.kind == "mark" for one in after)
        return comma and joined and not self.mention.group and end >= self.sentence.end - 1
