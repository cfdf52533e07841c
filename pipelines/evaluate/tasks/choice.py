"""Multiple choice: how question and options are written, and how the strict parser's reading is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.evaluate.parsing import parse_choice
from pipelines.evaluate.tasks.base import LETTERS, Judged, Row, Task


@dataclass(frozen=True)
class ChoiceStyle:
    """How a question with options is written out: before, the options, after."""

    before: str
    """With ``{question}``."""
    option: str
    """With ``{label}`` and ``{text}``; one per line. Empty: options are not written."""
    after: str
    """Follows the last option, line break included."""

    def render(self, question: str, options: Sequence[str]) -> str:
        # Texts may hold braces, so they are put in by replacement.
        shown = options if self.option else ()
        lines = [
            self.option.replace("{label}", label).replace("{text}", text)
            for label, text in zip(LETTERS, shown, strict=False)
        ]
        return self.before.replace("{question}", question) + "\n".join(lines) + self.after

    def template(self) -> str:
        """The style with its placeholders, for results."""
        return f"{self.before}{self.option}\n...{self.after}" if self.option else self.before + self.after


IN_BRACKETS = "({label}) {text}"
WITH_DOT = "{label}. {text}"
AS_GIVEN = "{text}"
QUESTION_OPTIONS = "Question: {question}\nOptions:\n"
LETTER_DIRECTLY = "\nAnswer with the option's letter from the given choices directly."

BARE_STYLE = ChoiceStyle("{question}", "", "")
"""The question alone."""
LLAVA_STYLE = ChoiceStyle("{question}\n", WITH_DOT, LETTER_DIRECTLY)
"""As LLaVA and those after it ask: VideoLLaMB, lmms-eval."""
MVBENCH_STYLE = ChoiceStyle(
    QUESTION_OPTIONS, IN_BRACKETS, LETTER_DIRECTLY.removesuffix(".") + " and only give the best option."
)
"""As LongVU asks MVBench."""


class ChoiceTask(Task):
    """A task whose rows have options."""

    kind = "choice"
    styles: ClassVar[Mapping[str, ChoiceStyle]]

    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        return self.styles[self.preset.style].render(row.question, row.options)

    def score(self, row: Row, reply: str) -> Judged:
        """1 for the right option, or one of the same text; ``unparsed`` if the reply commits to none."""
        label = self.label(row, reply)
        if label is None:
            return Judged("unparsed")
        if row.answer is None:
            return Judged("hidden", label)
        texts = [text.strip() for text in row.options]
        right = label == row.answer or texts[LETTERS.index(label)] == texts[LETTERS.index(row.answer)]
        return Judged("scored", label, float(right))

    def label(self, row: Row, reply: str) -> str | None:
        """The label that the reply commits to."""
        return parse_choice(self.preset.reply_prefix + reply, row.options)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "prompt": self.styles[self.preset.style].template()}
