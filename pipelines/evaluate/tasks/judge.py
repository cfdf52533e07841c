"""A language model as judge: what it is asked, and reading its verdict without guessing.

The protocols are those of Video-ChatGPT (a verdict and 0 to 5), MLVU's generation tasks (two scores of 1 to 5) and the
video haystack (1 to 10); the wording is this project's, so scores compare with each other before they compare with
published ones, which moved by eight points between versions of one judge anyway.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluate.tasks.base import Messages

_DICT = re.compile(r"\{[^{}]*\}")
_RATING = re.compile(r"\[\[(.*?)\]\]")

_QA_SYSTEM = (
    "You compare a predicted answer to a question about a video with the correct answer and decide whether they match "
    "in meaning. Synonyms and paraphrases count as matches. Judge only whether the prediction is right, not its style."
)
_QA_FORMAT = (
    "Does the prediction match? Reply only with a Python dictionary string and no other text: key 'pred' is 'yes' or "
    "'no', key 'score' is a whole number from 0 to 5, 5 for a full match. For example: {'pred': 'yes', 'score': 4}"
)
_NEEDLE_RUBRIC = (
    "accuracy: Score 1: the answer is unrelated to the reference. Score 3: it has minor relevance but does not agree "
    "with the reference. Score 5: it has moderate relevance with inaccuracies. Score 7: it agrees with the reference "
    "with minor omissions. Score 10: it is fully accurate and agrees with the reference. Give a whole number."
)


@dataclass(frozen=True)
class Verdict:
    """Whether a prediction matches, and how well, 0 to 5."""

    match: bool
    score: float


def qa_messages(question: str, answer: str, reply: str) -> Messages:
    """What the judge of an open question is asked."""
    pair = f"Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {reply}"
    return _chat(_QA_SYSTEM, f"{pair}\n\n{_QA_FORMAT}")


def read_verdict(judge_reply: str) -> Verdict | None:
    """The verdict in a judge's reply, or None where it is not exactly one well-formed verdict."""
    found = _only_dict(judge_reply)
    if found is None:
        return None
    word, score = found.get("pred", found.get("predicted")), _number(found.get("score"), 0, 5)
    verdicts = {"yes": True, "no": False}
    if score is None or not isinstance(word, str) or word.strip().lower() not in verdicts:
        return None
    return Verdict(verdicts[word.strip().lower()], score)


def needle_messages(question: str, reference: str, reply: str) -> Messages:
    """What the judge of a needle's answer is asked: a rating from 1 to 10 in double brackets."""
    return _chat(
        "You are a helpful assistant.",
        "Act as an impartial judge of the answer of an AI assistant to the question below. For this evaluation, you "
        f"should primarily consider the following criteria:\n{_NEEDLE_RUBRIC}\n\n[Ground truth]\n{reference}\n\nGive a "
        "short explanation first, then rate the answer from 1 to 10 in exactly this form: [[rating]], for example: "
        f"Rating: [[5]].\n\n[Question]\n{question}\n\n[The Start of Assistant's Answer]\n{reply}\n"
        "[The End of Assistant's Answer]",
    )


def read_rating(judge_reply: str) -> int | None:
    """The first ``[[...]]`` of a judge's reply if it is a whole number from 1 to 10, else None."""
    match = _RATING.search(judge_reply)
    text = match.group(1).strip() if match else ""
    return int(text) if re.fullmatch(r"[1-9]|10", text) else None


def generation_messages(
    question: str, reference: str, points: Sequence[str], reply: str, aspects: tuple[str, str]
) -> Messages:
    """What the judge of an MLVU generation task is asked: two scores of 1 to 5.

    Args:
        points: of a scene description; empty for summaries, which are held against ``reference``.
        aspects: names of the two scores, such as ``("accuracy", "relevance")``.
    """
    first, second = aspects
    against = "the scoring points" if points else "the reference"
    basis = "Scoring Points: " + json.dumps(list(points), ensure_ascii=False) if points else f"Reference: {reference}"
    system = (
        f"You give two scores from 1 to 5 to an answer about a video. {first.capitalize()}: {_ASPECTS[first]}, judged "
        f"by {against}; average over its parts. {second.capitalize()}: {_ASPECTS[second]}. Reason first. End with the "
        f"dictionary {{'score_{first}': a, 'score_{second}': b, 'total_score': a + b}} and nothing after it."
    )
    return _chat(system, f"Question: {question}\n{basis}\nRespondent's Answer: {reply}")


def read_generation_scores(judge_reply: str, aspects: tuple[str, str]) -> tuple[float, float] | None:
    """The two scores in the last dictionary of a judge's reply, or None where they are not there or out of range."""
    found = _DICT.findall(judge_reply)
    scores = _literal(found[-1]) if found else None
    if scores is None:
        return None
    first, second = (_number(scores.get(f"score_{aspect}"), 1, 5) for aspect in aspects)
    return None if first is None or second is None else (first, second)


_ASPECTS = {
    "accuracy": "1 misses what was asked for, 3 mentions something related that is not entirely correct, 5 is correct",
    "relevance": "how well the answer keeps to the question, right or wrong; 1 is off-topic, 5 is wholly to the point",
    "completeness": "1 leaves out nearly all main events, 3 has about half of them, 5 has all of them",
    "reliability": "1 is mostly invented or contradictory, 3 has some clear mistakes, 5 has none",
}


def _only_dict(text: str) -> dict[str, Any] | None:
    """The one dictionary in a text, words and code fences around it aside; None for none, several or broken ones."""
    found = _DICT.findall(text)
    return _literal(found[0]) if len(found) == 1 else None


def _literal(text: str) -> dict[str, Any] | None:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError):
            continue
        return value if isinstance(value, dict) else None
    return None


def _number(value: object, low: float, high: float) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if low <= value <= high else None


def _chat(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
