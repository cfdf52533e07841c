"""What a reply commits to, from what its sentences say in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluate.parsing.elements import Element
from pipelines.evaluate.parsing.roles import read
from pipelines.evaluate.parsing.statements import (
    CHOSEN,
    EXPLAINED,
    IGNORED,
    PLAIN,
    REJECTED,
    Mention,
    Sentence,
    sentences_of,
)
from pipelines.evaluate.parsing.walks import read_walks

_STRONG, _WEAK, _PLAIN, _EXPLAINED = 3, 2, 1, 0

# Texts of one sentence that a label is held against.
_MOST_TEXTS = 10


@dataclass
class _Choice:
    labels: frozenset[str]
    level: int
    bare: bool = False
    announced: bool = False


def decide(elements: Sequence[Element], num_options: int) -> str | None:
    """Return the label that the reply commits to, or None."""
    sentences = sentences_of(elements)
    for number, sentence in enumerate(sentences):
        read(elements, sentence, number == 0, number == len(sentences) - 1)
        _descriptions(elements, sentence)
    read_walks(elements, sentences, num_options)
    _joined_texts(elements, sentences)
    return _Timeline(elements).run(sentences)


def _descriptions(elements: Sequence[Element], sentence: Sentence) -> None:
    """``Option A says the red car wins``: the text behind a label that is only mentioned tells what the option is."""
    for label, text in itertools.pairwise(sentence.mentions):
        between = elements[label.last + 1 : text.first]
        mentioned = (label.kind, text.kind, label.role) == ("label", "text", IGNORED) and label.labels == text.labels
        if mentioned and between and (between[0].kind == "word" or "say" in between[0].tags):
            text.role = text.role if any("but" in one.tags for one in between) else IGNORED


def _joined_texts(elements: Sequence[Element], sentences: Sequence[Sentence]) -> None:
    """A chosen label disagrees with another option's text joined to it; with its own text it agrees."""
    for number, sentence in enumerate(sentences):
        beside = [other for other in sentence.mentions if other.kind == "text" and other.role in (PLAIN, CHOSEN)]
        for mention in sentence.mentions:
            if mention.role != CHOSEN or mention.group or mention.kind != "label":
                continue
            texts = [other for other in beside[:_MOST_TEXTS] if not _contrasted(elements, other, mention)]
            if (
                not texts
                and number + 1 < len(sentences)
                and _adjacent(elements, mention, sentence, sentences[number + 1])
            ):
                texts = [o for o in sentences[number + 1].mentions[:1] if o.kind == "text" and o.role == CHOSEN]
            agrees = mention.first < mention.last or any(other.labels & mention.labels for other in texts)
            if texts and not agrees:
                for other in texts:
                    other.role, other.bare = CHOSEN, False
            else:
                for other in texts:
                    if other.role == CHOSEN and not other.labels & mention.labels and not other.final:
                        other.role = PLAIN


def _contrasted(elements: Sequence[Element], text: Mention, label: Mention) -> bool:
    """*But* stands between a text and the label after it."""
    return any("but" in one.tags for one in elements[text.last + 1 : label.first])


def _adjacent(elements: Sequence[Element], mention: Mention, sentence: Sentence, following: Sentence) -> bool:
    """Only marks and one line break stand between a label and the sentence after it."""
    between = (
        elements[mention.last + 1 : following.mentions[0].first] if following.mentions else [elements[mention.first]]
    )
    return (
        all(one.kind in ("mark", "newline") or one.tags & {"filler"} for one in between)
        and sum(one.kind == "newline" for one in between) <= 2
    )


class _Timeline:
    """Choices in the order in which they are made, taken back and replaced."""

    def __init__(self, elements: Sequence[Element]) -> None:
        self._elements = elements
        self._choices: list[_Choice] = []
        self._topic: Mention | None = None
        self._mending = False
        self._turned = False
        self._unsettled = False
        self._asked: Mention | None = None

    def run(self, sentences: Sequence[Sentence]) -> str | None:
        for sentence in sentences:
            self._sentence(sentence)
        return self._outcome()

    def _sentence(self, sentence: Sentence) -> None:
        mentions = {mention.first: mention for mention in sentence.mentions}
        self._answer_to_question(sentence)
        index = sentence.start
        lead = True
        self._turned = False
        while index < sentence.end:
            one = self._elements[index]
            if index in mentions:
                self._mention(mentions[index], sentence)
                index = mentions[index].last + 1
                lead = False
                continue
            if one.kind == "tag" and not sentence.question:
                if "undo" in one.tags and not one.tags & {"filler"}:
                    self._choices.clear()
                    self._mending = False
                elif "mend" in one.tags or (lead and "no" in one.tags and self._comma_after(index)):
                    self._mending = bool(self._choices)
                elif lead and one.text == "otherwise" and self._elements[sentence.start - 1].text == ";":
                    self._choices.clear()  # when it rains, B; otherwise C
                self._turned |= lead and "but" in one.tags and not self._adds(sentence)
            lead = lead and (one.kind in ("mark", "newline") or bool(one.tags & {"filler", "but"}))
            index += 1
        self._verdict_on_topic(sentence)
        if sentence.question and sentence.mentions:
            self._asked = sentence.mentions[-1]
        elif not sentence.question:
            self._asked = None

    def _adds(self, sentence: Sentence) -> bool:
        """``But B is also right``."""
        return any(one.text in ("also", "too", "equally") for one in self._elements[sentence.start : sentence.end])

    def _comma_after(self, index: int) -> bool:
        following = self._elements[index + 1 : index + 2]
        return not following or following[0].kind in ("mark", "newline", "tag", "label")

    def _mention(self, mention: Mention, sentence: Sentence) -> None:
        self._topic = mention
        if mention.role == REJECTED:
            self._choices = [choice for choice in self._choices if not choice.labels <= mention.labels]
            return
        if self._mending and mention.group and any(choice.labels & mention.labels for choice in self._choices):
            self._choices.clear()
        if mention.role == IGNORED:
            return
        level = {CHOSEN: _WEAK if mention.weak else _STRONG, PLAIN: _PLAIN, EXPLAINED: _EXPLAINED}[mention.role]
        if self._mending and level > _EXPLAINED and not mention.group:
            if mention.hedged and not any(choice.labels == mention.labels for choice in self._choices):
                self._unsettled = True
            else:
                self._choices = [choice for choice in self._choices if choice.labels == mention.labels]
                self._unsettled = False
                level = max(level, _STRONG)
            self._mending = False
        elif (mention.final or (self._turned and not mention.hedged)) and level == _STRONG and not mention.group:
            self._choices.clear()
            self._unsettled = False
        elif level == _WEAK and not mention.group and any(choice.labels > mention.labels for choice in self._choices):
            # One of several, singled out.
            self._choices = [choice for choice in self._choices if not choice.labels > mention.labels]
            level = _STRONG
        self._choices.append(_Choice(mention.labels, level, mention.bare, mention.announced))

    def _answer_to_question(self, sentence: Sentence) -> None:
        """``Is it B? Yes.``"""
        if self._asked is None or sentence.question:
            return
        first = next(
            (one for one in self._elements[sentence.start : sentence.end] if one.kind not in ("mark", "newline")), None
        )
        if first is None or not first.tags & {"yes", "no"} or any(m.role == CHOSEN for m in sentence.mentions):
            return
        if (
            "yes" in first.tags
            and not self._asked.group
            and not any("not" in one.tags for one in self._elements[sentence.start : sentence.end])
        ):
            self._choices.append(_Choice(self._asked.labels, _STRONG))

    def _verdict_on_topic(self, sentence: Sentence) -> None:
        """``This is wrong.``, ``..., which is right``: said of the option named last."""
        if self._topic is None or sentence.question:
            return
        start = max(sentence.start, self._topic.last + 1 if sentence.mentions else sentence.start)
        if sentence.mentions and sentence.mentions[-1] is not self._topic:
            return
        rest = self._elements[start : sentence.end]
        chosen = any(mention.role != IGNORED for mention in sentence.mentions)
        if sentence.mentions and (self._topic.group or any(one.tags & {"if", "than"} for one in rest)):
            return
        if sentence.mentions:
            cut = next(
                (n for n, one in enumerate(rest) if (one.kind == "mark" and one.text in ",–:(") or one.tags & {"but"}),
                None,
            )
            if cut is None:
                return
            rest = rest[cut:]
        if chosen and not any("but" in one.tags for one in rest):
            return
        if any(one.kind == "word" for one in rest):
            return
        tags = {tag for one in rest for tag in one.tags}
        if tags & {"answer"} and not tags & {"right", "wrong"}:
            return
        picked = "choose" in tags and any(one.text in ("it", "this", "that") for one in rest)
        denied = not sentence.mentions and sentence.end == len(self._elements) and self._asked is None
        if denied and rest and all(one.kind != "tag" or "no" in one.tags for one in rest) and "no" in tags:
            self._choices = [choice for choice in self._choices if choice.labels != self._topic.labels]
            return
        positive = (bool(tags & {"right"}) or picked) and not tags & {"not", "wrong", "no", "not_after"}
        negative = bool(tags & {"wrong"} and not tags & {"not"}) or bool(
            tags & {"right"} and tags & {"not", "not_after"}
        )
        if positive and not chosen and not self._topic.group and "if" not in tags and ("be" in tags or picked):
            self._choices.append(_Choice(self._topic.labels, _STRONG))
        elif negative:
            self._choices = [choice for choice in self._choices if not choice.labels <= self._topic.labels]

    def _outcome(self) -> str | None:
        if self._unsettled or not self._choices:
            return None
        level = max(choice.level for choice in self._choices)
        # An announced label outranks texts that stand on lines of their own.
        announced = any(choice.announced and choice.level == level for choice in self._choices)
        held = [choice.labels for choice in self._choices if choice.level == level and not (announced and choice.bare)]
        single = [labels for labels in held if len(labels) == 1]
        if not single:
            return None
        chosen = single[-1]
        if any(labels != chosen for labels in single):
            return None
        if any(not labels <= chosen for labels in held[len(held) - held[::-1].index(chosen) :]):
            return None
        (label,) = chosen
        return label if label != "?" else None
