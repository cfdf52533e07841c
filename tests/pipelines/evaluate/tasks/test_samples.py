"""Every task on its own five rows, from the files to the score."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from longvu_model.video.decode import decode_frames
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import LETTERS, Row, Task
from pipelines.evaluate.tasks.registry import task, task_class, task_names
from pipelines.evaluate.tasks.samples import Sample, write_sample

Samples = Callable[[str], Sample]
CHOICES = [name for name in task_names() if task_class(name).kind == "choice"]
OPEN = [name for name in task_names() if task_class(name).kind == "open"]


def rows_of(name: str, sample: Samples, *options: str) -> tuple[Task, list[Row]]:
    written = sample(name)
    chosen = task(name, options=[*written.options, *options])
    return chosen, list(chosen.rows(written.data))


@pytest.mark.parametrize("name", task_names())
def test_rows_can_be_shown_and_asked(name: str, sample: Samples, made: Path) -> None:
    chosen, rows = rows_of(name, sample)
    assert len(rows) == 5
    assert len({row.id for row in rows}) == 5
    for row in rows:
        assert row.excluded is None
        assert row.where
        shown = chosen.shown(row, made)
        if shown.video is not None:
            video = decode_frames(str(shown.video), shown.sampling)
            assert len(video.frames) > 0 and video.summary.damage is None
        assert row.question in chosen.prompt(row) or row.question.strip("?") in chosen.prompt(row)
        assert pickle.loads(pickle.dumps(row)) == row


@pytest.mark.parametrize("name", task_names())
def test_every_preset_is_described_in_plain_json(name: str, sample: Samples) -> None:
    written, digests = sample(name), set()
    for preset in task_class(name).presets:
        chosen = task(name, preset, written.options)
        settings = json.loads(json.dumps(chosen.settings()))
        assert settings["preset"] == preset and settings["prompt"]
        assert str(chosen.sampling)
        digests.add(chosen.digest())
    assert len(digests) == len(task_class(name).presets)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_scored(name: str, sample: Samples) -> None:
    chosen, rows = rows_of(name, sample)
    for row in rows:
        assert row.answer is not None and row.answer in row.labels
        wrong = next(label for label in row.labels if label != row.answer)
        right = chosen.score(row, f"({row.answer})")
        assert (right.status, right.parsed, right.score) == ("scored", row.answer, 1.0)
        assert chosen.score(row, f"The answer is {wrong}.").score == 0.0
        assert chosen.score(row, row.options[LETTERS.index(row.answer)]).score == 1.0
        for unclear in ("", "I cannot tell.", f"{row.answer} or {wrong}"):
            judged = chosen.score(row, unclear)
            assert (judged.status, judged.parsed, judged.score) == ("unparsed", None, None)


@pytest.mark.parametrize("name", OPEN)
def test_open_answers_are_scored_exactly(name: str, sample: Samples) -> None:
    chosen, rows = rows_of(name, sample)
    assert not chosen.needs_judge
    for row in rows:
        assert row.answer is not None
        assert chosen.score(row, f" {row.answer.upper()}. ").score == 1.0
        assert chosen.score(row, f"{row.answer} xylophone").score == 0.0
        assert chosen.score(row, " ...").status == "unparsed"


@pytest.mark.parametrize("name", OPEN)
def test_open_answers_are_judged(name: str, sample: Samples) -> None:
    chosen, rows = rows_of(name, sample, "judge=true")
    assert chosen.needs_judge
    for row in rows:
        system, user = chosen.judge_messages(row, "a certain reply")
        assert (system["role"], user["role"]) == ("system", "user")
        assert f"Question: {row.question}\n" in user["content"]
        assert f"Correct Answer: {row.answer}\nPredicted Answer: a certain reply\n" in user["content"]
        judged = chosen.judged(row, "a reply", "{'pred': 'yes', 'score': 4.8}")
        assert (judged.score, judged.detail) == (1.0, {"judge_score": 4.8, "published_judge_score": 4})
        assert chosen.judged(row, "a reply", "{'pred': 'no', 'score': 1}").score == 0.0
        assert chosen.judged(row, "a reply", "yes, 5").status == "judge_failed"
        assert chosen.judged(row, "  ", "{'pred': 'yes', 'score': 5}").status == "unparsed"


def test_generation_is_judged(sample: Samples) -> None:
    chosen, rows = rows_of("mlvu_generation", sample)
    assert chosen.needs_judge and chosen.mean_over == "task"
    scene, summary = rows[1], rows[3]
    asked = chosen.judge_messages(scene, "a reply")[1]["content"]
    assert "The shape is green" in asked and "The room is grey" in asked
    assert "Reference: " + str(summary.answer) in chosen.judge_messages(summary, "a reply")[1]["content"]
    scores = "{'score_accuracy': 2.5, 'score_relevance': 5, 'total_score': 7.5}"
    judged = chosen.judged(scene, "a reply", f"Because of this {{and}} that. {scores}")
    assert (judged.score, judged.detail) == (7.5, {"accuracy": 2.5, "relevance": 5.0})
    assert chosen.judged(summary, "a reply", scores).status == "judge_failed"
    assert chosen.score(scene, "").status == "unparsed"


def test_haystack_is_scored_by_keywords_and_by_a_judge(sample: Samples) -> None:
    chosen, rows = rows_of("needle_haystack", sample)
    assert not chosen.needs_judge
    assert [chosen.score(rows[0], reply).score for reply in ("A Star.", "a circle")] == [10.0, 1.0]
    assert chosen.score(rows[0], "\n").status == "unparsed"
    chosen, rows = rows_of("needle_haystack", sample, "scoring=judge")
    assert chosen.needs_judge
    asked = chosen.judge_messages(rows[0], "a star")[1]["content"]
    assert "the yellow shape is a star" in asked and "Which shape is yellow?" in asked
    assert chosen.judged(rows[0], "a star", "Fine. Rating: [[7]]").score == 7.0
    assert chosen.judged(rows[0], "a star", "Rating: 7").status == "judge_failed"
    assert chosen.judged(rows[0], "", "Rating: [[7]]").status == "unparsed"


def test_unknown_sample(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sample of 'nope'"):
        write_sample("nope", tmp_path)
