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
    Sentence,
    mentions_of,
)
from pipelines.evaluate.parsing.surroundings import IT_IS, Surroundings
from pipelines.evaluate.parsing.vocabulary import is_answer_name

_CUES = {"answer", "choose", "right"}
# Beside a label with nothing else in its clause, these present it.
_PRESENTING = {"now", "be", "so", "final", "maybe", "mend", "yes", "choose", "right", "than", "not", "but"}
_FIRST_PERSON = {"i", "id", "ill", "im", "ive", "my"}
_SPEAKERS = _FIRST_PERSON | {"we", "well", "our", "me", "youre"}
# Behind these the speaker does not act on an option.
_NOT_ACTS = {
    "a", "an", "the", "see", "saw", "hear", "heard", "notice", "noticed", "spot", "read", "know", "of", "from", "in",
    "at", "about", "against", "into", "around", "near", "behind", "past", "beyond", "regarding", "concerning", "off",
}  # fmt: skip
# What may stand before the noun of ``the answer ... is B``, and what may not stand behind it.
_LEADS = {"filler", "so", "final", "maybe", "right", "be"}
_DENIES = {"not", "wrong", "reject", "first", "others", "if", "although"}
_PREPOSITIONS = {"to", "of", "in", "on", "at", "for", "from", "with", "by", "as", "like", "the", "a", "an"}
# What is told apart by letters in a scene.
_LETTERED = {
    "scene", "frame", "clip", "camera", "figure", "grade", "rating", "score", "size", "type", "gate", "platform",
    "room", "row", "seat", "section", "level", "player", "person", "team", "group", "plan", "vitamin", "point",
    "track", "line", "key", "lane", "terminal", "exhibit", "class", "category", "confidence", "note", "chord",
    "bus", "train", "building", "block", "hall", "car", "door", "table", "house",
}  # fmt: skip
_ELLIPSES = (["does"], ["did"], ["do"], ["is"], ["it", "is"], ["works"], ["holds"])
# What questions ask for; it can be a label.
_SUBJECTS = {
    "what", "reason", "cause", "explanation", "motive", "purpose", "goal", "action", "activity", "event",
    "emotion", "mood", "order", "sequence", "place", "location", "thing", "topic", "theme", "weather", "season",
    "statement", "description", "caption", "title", "summary", "relationship", "profession", "result", "outcome",
    "difference", "sport", "dish", "number", "count", "total",
}  # fmt: skip
_SEQUENCE = {"then", "afterwards", "afterward", "later", "next", "subsequently"}
_ONLY = {"only", "just"}
# Of things in the scene these are events, of labels comparisons.
_OUTDOES = {"beats", "ahead", "resembles"}
_COMPARATIVES = {"better", "more", "closer", "stronger", "likelier"}
_HAS = {"has", "gets", "receives", "enjoys", "offers"}
_LESSER = {"least", "worst", "second", "last", "third", "initial", "first", "previous", "original", "earlier"}
_SUPERLATIVES = {"best", "better", "strongest", "highest", "closest", "closer", "perfectly", "exactly", "accurately"}
_MODALS = {"might", "could", "may"}
# Words of a predicate within which an option is called the answer.
_PREDICATE = 9
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


class _Reader(Surroundings):
    """The role of one mention in its sentence."""

    def read(self) -> None:
        mention = self.mention
        left, right = self.left() | self.tags(mention.first, mention.last) - {"and", "or"}, self.right()
        before = self.tags(self.clause_start, mention.first)
        mention.hedged = "maybe" in left | right | before or (self._modal() and not self._also())
        announced = bool(left & _CUES) and not (
            not left & {"right", "be", "final", "choose"} and (("list" in left and mention.group) or self._seen(left))
        )
        if self._ignored(left, before):
            mention.role = IGNORED
            if "mend" in left and self.sentence.question:
                mention.hedged = True
            return
        if self._rejected(left, right, before):
            mention.role = REJECTED
            return
        called = self._called_right()
        mention.final = "final" in left | before and (
            mention.kind == "label" or bool(left & _CUES) or self.after_colon()
        )
        mention.final |= called and mention.kind == "label" and self._compares()
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
        if announced or called or self._stands(left) or (self.closed and presented):
            mention.role = CHOSEN
            mention.announced = (announced or (self.last and self.after_colon())) and not mention.group
            firm = called and not self._may_be() and not self._modal() and right & {"right", "choose", "yes"}
            mention.weak = described or ((mention.hedged or self._may_be()) and not announced and not firm)
        elif mention.first < mention.last and not mention.group:
            mention.role, mention.weak = CHOSEN, True

    def _read_text(self, left: set[str], presented: bool) -> None:
        """A text is chosen wherever it stands, with less force where nothing presents it."""
        texts = (one for one in self.elements[self.mention.first : self.mention.last + 1] if one.kind == "text")
        functional = any(one.functional for one in texts)
        if self._in_reason() and not presented:
            self.mention.role = EXPLAINED
        elif self._one_of_several(presented):
            self.mention.role = PLAIN
        elif presented or self.closed or self._cleft() or (self.opens() if functional else self._stands(left)):
            self.mention.role, self.mention.bare = CHOSEN, not presented
            self.mention.announced = presented and not self.mention.group
        else:
            self.mention.role = IGNORED if functional else PLAIN

    def _one_of_several(self, presented: bool) -> bool:
        """One more possibility, one event after another, or what *but* leads away from."""
        if self._also() or (self._modal() and self._but_before()):
            return True
        return not presented and (self._then() or (self.closed and self._but_follows()))

    def _ignored(self, left: set[str], before: set[str]) -> bool:
        """Questions, conditions, comparisons, other people's and earlier views."""
        sentence = self.sentence
        if sentence.question and not self._tag_question() and not self._itemised():
            return True
        if self._compared() or any("than_after" in tags for tags in self.walked[:1]):
            return True
        if any("first" in tags for tags in self.walked) or self._said_by_another() or self._is_name():
            return True
        if {"others", "choose"} <= self.right() or self._not_excluded(left):
            return True
        if (
            "first" in self.tags(sentence.start, self.mention.first)
            and not self.after("but", "mend", "so", "now", "first")
            and not self._chosen_anew()
        ):
            return True
        if self._conditional() and not self._itemised():
            return True
        if "although" in before and not self.after("but", "so", "answer", "although") and self._conceded():
            earlier = [one.role for one in sentence.mentions if one.last < self.mention.first]
            if self.mention.kind == "text" or not earlier or CHOSEN in earlier or not self._called_right():
                return True  # not of C is tempting, though B is right
        if (
            "others" in before
            and before & {"choose", "maybe", "others"}
            and (self.mention.kind == "label" or before & {"choose"})
        ):
            return bool(before & {"choose", "answer"}) or "others" in left or self.it_is()
        return "ask" in left and not left & {"be", "right", "choose", "final"} and not left & {"answer"}

    def _seen(self, left: set[str]) -> bool:
        """``he wears the letter D``: a thing in the scene."""
        before = self.elements[self.clause_start : self.mention.first]
        return "sign" in left and any(one.kind == "word" for one in before)

    def _chosen_anew(self) -> bool:
        """``my first answer was A and I go with B``: between the option named before and this one, a verb chooses."""
        earlier = [one.last for one in self.sentence.mentions if one.last < self.mention.first]
        return bool(earlier) and "choose" in self.tags(earlier[-1], self.mention.first)

    def _not_excluded(self, left: set[str]) -> bool:
        """``B cannot be excluded``, ``I can't rule out B``: this does not choose it."""
        return self.mention.kind == "label" and ({"not", "wrong"} <= self.right() or {"not", "reject"} <= left)

    def _itemised(self) -> bool:
        """``C. Let me know if you need more``: what follows the dot is not said of the label."""
        following = self.elements[self.mention.last + 1 : self.mention.last + 2]
        return self.mention.first == self.sentence.start and bool(following) and following[0].text == "."

    def _is_name(self) -> bool:
        """``scene C``, ``Grade: B``: the letter names a thing."""
        if self.mention.kind != "label" or self.mention.first == self.sentence.start:
            return False
        place = self.mention.first - 1
        while place > self.sentence.start and self.elements[place].text == ":":
            place -= 1
        name = self.elements[place]
        return name.text.casefold() in _LETTERED and name.end - name.start == 1

    def _compared(self) -> bool:
        """*Than* stands before the mention; a word that is also *that* counts only behind another mention."""
        part = self.elements[self.clause_start : self.mention.first]
        for index in range(len(part) - 1, -1, -1):
            one = part[index]
            if one.kind == "tag" and "than" in one.tags:
                if not one.tags & {"filler", "be", "and"} and not (
                    self.mention.kind == "text" and one.text in _OUTDOES
                ):
                    return True
                if any(earlier.mention for earlier in part[:index]):
                    return True
            if one.mention or (self.mention.kind == "label" and one.kind == "word"):
                return False
        return False

    def _conceded(self) -> bool:
        """The concession names this option and no other before it; *while* can also join two events."""
        for index in range(self.mention.first - 1, self.sentence.start - 1, -1):
            one = self.elements[index]
            if one.mention:
                return False
            if "although" in one.tags:
                event = one.text == "while" and self.elements[index - 1].kind in ("text", "word")
                return not (event and self.mention.kind == "text")
        return False

    def _tag_question(self) -> bool:
        """``It is B, isn't it?`` states what it asks about."""
        said = self.elements[self.sentence.start : self.sentence.end]
        commas = [n for n, one in enumerate(said) if one.kind == "mark" and one.text == ","]
        if not commas or self.sentence.start + commas[-1] < self.mention.last or self._inverted(said[0]):
            return False
        tail = [one for one in said[commas[-1] + 1 :] if one.kind != "mark"]
        return 0 < len(tail) <= 3 and all(one.kind == "tag" and not one.tags & {"or", "if"} for one in tail)

    @staticmethod
    def _inverted(verb: Element) -> bool:
        """``Is it B``, not ``It's B``."""
        return "be" in verb.tags and verb.text not in IT_IS

    def _said_by_another(self) -> bool:
        """``"B", says he``."""
        following = (one for one in self.elements[self.mention.last + 1 : self.sentence.end] if one.kind != "mark")
        after = next(following, None)
        bare = self.mention.kind == "label" and self.mention.first == self.mention.last
        return after is not None and ("say" in after.tags or (bare and "others" in after.tags))

    def _conditional(self) -> bool:
        reason = False
        for index in range(self.sentence.start, self.sentence.end):
            one = self.elements[index]
            if one.kind != "tag":
                continue
            if one.text == "whether" and self.mention.last < index:
                continue  # it is unclear whether
            if "if" in one.tags and not one.tags & {"maybe", "answer", "no", "yes", "final"}:
                opens = index == self.sentence.start or self.elements[index - 1].kind in ("mark", "newline")
                if opens or not one.tags & {"be", "filler", "not"}:
                    return not (reason and self.mention.first < index) and not self.after("but", "if")
            if "because" in one.tags and index > self.mention.last:
                reason = True
        return False

    def _rejected(self, left: set[str], right: set[str], before: set[str]) -> bool:
        negated = bool(left & {"not", "refuse"}) or (("no" in left) and self.directly("no"))
        if (
            left & {"reject"}
            or ("wrong" in left and "answer" in left and not negated)
            or ("wrong" in left and self.mention.kind == "label" and self.directly("wrong"))
            or ("wrong" in left and ("be" in left or self.heads("wrong")))
        ):
            return not negated or "reject" not in left
        if negated and not ("maybe" in left and not left & {"not", "refuse"}):
            return True
        if self.mention.kind == "text" and before & {"not", "refuse"}:
            return True
        walked = self.walked
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

    def _called_right(self) -> bool:
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
        if "maybe" in flat and ("be" in flat or "find" in self._words_before()):
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
                return not words & _LESSER
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

    def _but_follows(self) -> bool:
        """``X, but Y``: the sentence goes on to another option."""
        seen = False
        for one in self.elements[self.mention.last + 1 : self.sentence.end]:
            if one.mention and seen:
                return True
            seen = seen or "but" in one.tags
        return False

    def _stands(self, left: set[str]) -> bool:
        """It opens or closes its sentence set off from the rest, where that makes it the answer."""
        sentence, mention = self.sentence, self.mention
        if self._in_reason():
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
        aside = bool(rest) and rest[0].text in ",(–"
        return aside or any(one.text in _SPEAKERS | {"among", "of", "to"} or "right" in one.tags for one in rest)

    def _first_person(self) -> bool:
        """``I'd put my money on C``: what the speaker does with an option, unless that is a thing's name."""
        part = [one for one in self.elements[self.clause_start : self.mention.first] if one.kind != "mark"]
        if any(one.mention or one.tags & _DENIES for one in part):
            return False
        if not any(one.text in _SPEAKERS for one in part[:2]) and not self._led_to(part):
            return False
        verbs = [one for one in part if one.kind == "word"]
        plain = part[-1].kind == "tag" or (len(verbs) == 1 and not verbs[0].text.endswith("s"))
        return plain and part[-1].text not in _NOT_ACTS

    @staticmethod
    def _led_to(part: Sequence[Element]) -> bool:
        """``this brings us to B``."""
        ours = any(one.text in ("us", "me") for one in part)
        return ours and part[0].text in ("this", "that", "it", "which") and part[-1].text in ("to", "at", "with")

    def _words_before(self) -> set[str]:
        return {one.text for one in self.elements[self.sentence.start : self.mention.first]}

    def _cleft(self) -> bool:
        """``It is the cat that jumps``."""
        before = [one for one in self.elements[self.sentence.start : self.mention.first] if one.kind != "mark"]
        copula = [n for n, one in enumerate(before) if "be" in one.tags]
        if not copula or any(one.kind != "tag" or one.tags & {"not", "or", "if"} for one in before):
            return False
        after = self.elements[self.mention.last + 1 : self.mention.last + 2]
        it = before[copula[0]].text in ("its", "cest") or (copula[0] > 0 and before[copula[0] - 1].text == "it")
        return it and bool(after) and after[0].text in ("that", "who", "which", "whom")

    def _but_before(self) -> bool:
        """``X, but Y``: the sentence comes from another option."""
        before = self.elements[self.sentence.start : self.mention.first]
        buts = [n for n, one in enumerate(before) if "but" in one.tags]
        return bool(buts) and any(one.mention for one in before[: buts[-1]])

    def _singled_out(self) -> bool:
        """``both B and C ..., but B is ...``: one of a group, set against it."""
        group = any(m.group and m.labels > self.mention.labels for m in self.sentence.mentions)
        after = self.elements[self.mention.last + 1 : self.mention.last + 2]
        against = self._but_before() and bool(after) and bool(after[0].tags & {"be", "filler"})
        return group and (against or self.elements[self.sentence.start].text in ("of", "between", "among"))

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

    def _compares(self) -> bool:
        """``but E is more accurate``: of two, this one."""
        predicate = self.elements[self.mention.last + 1 : self.clause_end]
        return any(one.text in _COMPARATIVES for one in predicate[:4])

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

    def _also(self) -> bool:
        """``it could also be B``: one more possibility."""
        clause = [one.text for one in self.elements[self.clause_start : self.mention.first]]
        return "also" in clause and bool({"could", "might", "may"} & set(clause))

    def _colon_answers(self) -> bool:
        part = self.elements[self.sentence.start : self.mention.first]
        return not any(one.kind == "word" for one in part) or self.last

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

    def _in_reason(self) -> bool:
        return any(
            "because" in one.tags and not one.tags & {"filler", "be"} and one.text not in _SUBJECTS
            for one in self.elements[self.sentence.start : self.mention.first]
        ) and not (self.after("so", "but", "answer", "choose", "because") or self._main_clause())

    def _main_clause(self) -> bool:
        """``since a knife is seen, B``: the option alone behind the comma that ends the reason."""
        start, end = self.clause_start, self.clause_end
        comma = start > self.sentence.start and self.elements[start - 1].text == ","
        joined = self.mention.first == start and not any(
            one.kind != "mark" for one in self.elements[self.mention.last + 1 : end]
        )
        return comma and joined and not self.mention.group and end >= self.sentence.end - 1
