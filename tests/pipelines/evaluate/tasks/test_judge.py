"""Judges' replies: read exactly or not at all. And what counts as an equal answer without a judge."""

from __future__ import annotations

import pytest

from pipelines.evaluate.tasks.judge import Verdict, read_generation_scores, read_rating, read_verdict
from pipelines.evaluate.tasks.open_qa import normalised


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("{'pred': 'yes', 'score': 4}", Verdict(True, 4.0)),
        ("{'pred': 'no', 'score': 0}", Verdict(False, 0.0)),
        ('{"pred": "Yes", "score": 4.8}', Verdict(True, 4.8)),
        ("{'predicted': 'no', 'score': '2'}", Verdict(False, 2.0)),
        ("```python\n{'pred': 'yes', 'score': 5}\n```", Verdict(True, 5.0)),
        ("Here it is: {'pred': 'yes', 'score': 3}.", Verdict(True, 3.0)),
        ("{'pred': 'yes', 'score': 4", None),
        ("{'pred': 'yes', 'score': 4.8'}", None),
        ("{'pred': 'yes'}", None),
        ("{'score': 4}", None),
        ("{'pred': 'maybe', 'score': 3}", None),
        ("{'pred': True, 'score': 3}", None),
        ("{'pred': 'yes', 'score': 6}", None),
        ("{'pred': 'yes', 'score': -1}", None),
        ("{'pred': 'yes', 'score': True}", None),
        ('{"pred": "yes", "score": NaN}', None),
        ("{'pred': 'yes', 'score': 4} {'pred': 'no', 'score': 1}", None),
        ("{__import__('os').getcwd()}", None),
        ("{'yes', 4}", None),
        ("yes", None),
        ("", None),
    ],
)
def test_verdicts(reply: str, verdict: Verdict | None) -> None:
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: [[5]]", 5),
        ("It is fine. [[ 10 ]] [[3]]", 10),
        ("[[1]]", 1),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[7.5]]", None),
        ("[[rating]] [[7]]", None),
        ("[7]", None),
        ("7", None),
        ("", None),
    ],
)
def test_ratings(reply: str, rating: int | None) -> None:
    assert read_rating(reply) == rating


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("{'score_accuracy': 3, 'score_relevance': 5, 'total_score': 8}", (3.0, 5.0)),
        ('Because of {this}.\n```json\n{"score_accuracy": 2.5, "score_relevance": "4"}\n```', (2.5, 4.0)),
        ("{'score_accuracy': 3}", None),
        ("{'score_accuracy': 0, 'score_relevance': 5}", None),
        ("{'score_accuracy': 3, 'score_relevance': 6}", None),
        ("accuracy 3, relevance 5", None),
    ],
)
def test_generation_scores(reply: str, scores: tuple[float, float] | None) -> None:
    assert read_generation_scores(reply, ("accuracy", "relevance")) == scores


@pytest.mark.parametrize(
    ("answer", "other", "equal"),
    [
        ("The dog.", "dog", True),
        ("Two", "2", True),
        ("T-shirt", "t-shirt", True),
        ("man's", "man’s", True),
        ("  red   car ", "Red car!", True),
        ("'yes'", "yes", True),
        ("dog", "dogs", False),
        ("a dog and a cat", "dog", False),
        ("no", "not", False),
        ("12", "twelve", False),
    ],
)
def test_equal_answers(answer: str, other: str, equal: bool) -> None:
    assert (normalised(answer) == normalised(other)) is equal


def test_nothing_is_left_of_punctuation() -> None:
    assert normalised(" ...!? ") == ""
