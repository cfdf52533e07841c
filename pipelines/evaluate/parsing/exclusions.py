"""What keeps an option that a sentence names from being its choice: questions, conditions, comparisons, rejections."""

from __future__ import annotations

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.presentation import Presentation
from pipelines.evaluate.parsing.statements import CHOSEN
from pipelines.evaluate.parsing.surroundings import IT_IS

# What is told apart by letters in a scene.
_LETTERED = {
    "scene", "frame", "clip", "camera", "figure", "grade", "rating", "score", "size", "type", "gate", "platform",
    "room", "row", "seat", "section", "level", "player", "person", "team", "group", "plan", "vitamin", "point",
    "track", "line", "key", "lane", "terminal", "exhibit", "class", "category", "confidence", "note", "chord",
    "bus", "train", "building", "block", "hall", "car", "door", "table", "house",
}  # fmt: skip
# Of things in the scene these are events, of labels comparisons.
_OUTDOES = {"beats", "ahead", "resembles"}


class Exclusions(Presentation):
    """What speaks against one mention in its sentence."""

    def ignored(self, left: set[str], before: set[str]) -> bool:
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
            if self.mention.kind == "text" or not earlier or CHOSEN in earlier or not self.called_right():
                return True  # not of C is tempting, though B is right
        if (
            "others" in before
            and before & {"choose", "maybe", "others"}
            and (self.mention.kind == "label" or before & {"choose"})
        ):
            return bool(before & {"choose", "answer"}) or "others" in left or self.it_is()
        return "ask" in left and not left & {"be", "right", "choose", "final"} and not left & {"answer"}

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

    def rejected(self, left: set[str], right: set[str], before: set[str]) -> bool:
        """Negated, set aside or called wrong, by what stands before or behind."""
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
