"""The strict parser: a model's reply -> the one label that it commits to, or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.evaluate.parsing.characters import label_letter
from pipelines.evaluate.parsing.cleaning import clean
from pipelines.evaluate.parsing.decision import decide
from pipelines.evaluate.parsing.elements import elements_of
from pipelines.evaluate.parsing.option_texts import OptionTexts
from pipelines.evaluate.parsing.tokens import tokenise
from pipelines.evaluate.parsing.vocabulary import lexicon_for

MAX_OPTIONS = 26
_AROUND = r"[\s.,:;!()\[\]{}\"'<>*_`~|→✓•=–-]*"
# ``A. library`` is a label and a text, even where an option is "A library".
_LABEL_FIRST = re.compile(r"\W*A\s*[.:)(]\W*\w")
_LETTER_ONLY = re.compile(rf"{_AROUND}([^\W\d_]){_AROUND}")
_QUESTION_LINE = re.compile(r"^[ \t]*Q[ \t]*\d*[ \t]*:", re.M)
_ANSWER_MARKER = re.compile(r"(?:^|(?<=\s))A[ \t]*\d*[ \t]*:", re.M)
_ASKED = (
    r"Q[ \t]*\d*|question(?:[ \t]*\d+)?|问题|問題|질문|frage|pregunta|domanda|pergunta|vraag|pytanie|вопрос|soru|"
    r"câu hỏi|pertanyaan"
)
_ASKED_LABEL = re.compile(rf"^[ \t]*(?:{_ASKED})[ \t]*:[ \t]*(?=\W*[A-Z]\W*$)", re.M | re.I)
_NUMBERED_LABEL = re.compile(r"^[ \t]*[(\[]?\d{1,3}[)\].:][ \t]*(?=[A-Za-z]\W*$)", re.M)
_ASKED_LINE = re.compile(rf"^[ \t]*(?:{_ASKED})[ \t]*:[^\n]*?(?=\n|\banswer:|\Z)", re.M | re.I)

_CONTRACTED = re.compile(
    r"(?<![\w'])([B-H])'s(?=[ ]+(?:(?:the|my|our|not|it|what|where|clearly|obviously|definitely|probably)\b|"
    r"(?:right|correct|best|true|wrong|incorrect|false|out)[ ]*(?:[^\w ]|$|because\b|and\b|but\b|than\b)))",
    re.M,
)


def parse_choice(reply: str, options: Sequence[str]) -> str | None:
    """Return the label that ``reply`` commits to, "A" for the first option, or None when no single choice can be read.

    Nothing is guessed: no default label, no nearest text, no choice by elimination.

    Args:
        reply: the model's text, as generated.
        options: the option texts in order, with or without their labels.

    Raises:
        ValueError: more than 26 options.
    """
    if len(options) > MAX_OPTIONS:
        raise ValueError(
            f"{len(options)} options; labels are single letters, so at most {MAX_OPTIONS} can be told apart"
        )
    text = clean(reply)
    if text is None or not text.strip():
        return None
    if _QUESTION_LINE.search(text):
        text = _ANSWER_MARKER.sub("\nanswer:", text)
    text = _CONTRACTED.sub(r"\1 is", text)
    text = _ASKED_LINE.sub("", _ASKED_LABEL.sub("answer: ", _NUMBERED_LABEL.sub("", text)))
    tokens = tokenise(text)
    lexicon = lexicon_for(tokens)
    texts = OptionTexts(options, lexicon)
    if (letter := _LETTER_ONLY.fullmatch(text)) is not None:
        label = label_letter(letter[1])
        if label in texts.labels and (letter[1].isascii() or letter[1].isupper()):
            return label
    equal = frozenset[str]() if _LABEL_FIRST.match(text) else texts.equal(tokens)
    if len(equal) == 1 and not (text.rstrip().endswith("?") and not any("?" in option for option in options)):
        return next(iter(equal))
    return decide(elements_of(tokens, texts.find(tokens), texts.labels, lexicon), len(options))
