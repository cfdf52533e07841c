"""The published prompts, letter by letter, and the settings that go with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longvu_model.video.sampling import PUBLISHED_SAMPLING
from pipelines.evaluate.tasks.base import Row
from pipelines.evaluate.tasks.registry import task, task_class, task_names

FOUR = ("Red", "Green", "Blue", "{label}")
FIVE = (*FOUR, "White")
LABELLED = ("A. Red.", "B. Green.", "C. Blue.", "D. {text}.")
GOAL = (
    "My current task is to wash cup. The task's progress is demonstrated in the provided video. My current field of "
    "view is shown in the provided image. What should be my next action? Please output the most reasonable action you "
    "think, expressed in a short phrase."
)
MVBENCH_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


def row(question: str, options: tuple[str, ...] = ()) -> Row:
    return Row("1", question, None, options)


@pytest.mark.parametrize(
    ("name", "preset", "asked", "prompt"),
    [
        (
            "egoschema",
            "longvu",
            row("Why {question}?", FIVE),
            "Question: Why {question}?\nOptions:\n(A) Red\n(B) Green\n(C) Blue\n(D) {label}\n(E) White\n"
            "Respond with only the letter (A, B, C, D or E) of the correct option.",
        ),
        (
            "egoschema",
            "videollamb",
            row("Why?", FIVE),
            "Why?\nA. Red\nB. Green\nC. Blue\nD. {label}\nE. White\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            "mvbench",
            "longvu",
            row("Why?", FOUR[:2]),
            "Question: Why?\nOptions:\n(A) Red\n(B) Green\n"
            "Answer with the option's letter from the given choices directly and only give the best option.",
        ),
        (
            "mvbench",
            "official",
            row("Why?", FOUR[:2]),
            MVBENCH_SYSTEM + "Question: Why?\nOptions:\n(A) Red\n(B) Green\nOnly give the best option.",
        ),
        (
            "mvbench",
            "lmms",
            row("Why?", FOUR[:2]),
            "Question:Why?\nOption:\n(A) Red\n(B) Green\nOnly give the best option.\n",
        ),
        (
            "video_mme",
            "longvu",
            row("Why?", LABELLED),
            "Question: Why?\nOptions:\nA. Red.\nB. Green.\nC. Blue.\nD. {text}.\n"
            "Respond with only the letter (A, B, C, or D) of the correct option.\n",
        ),
        (
            "video_mme",
            "official",
            row("Why?", LABELLED),
            "Select the best answer to the following multiple-choice question based on the video. Respond with only "
            "the letter (A, B, C, or D) of the correct option.\nWhy?\nA. Red.\nB. Green.\nC. Blue.\nD. {text}.\n"
            "The best answer is:",
        ),
        (
            "video_mme",
            "lmms",
            row("Why?", LABELLED),
            "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
            "Respond with only the letter (A, B, C, or D) of the correct option.\nWhy?\nA. Red.\nB. Green.\nC. Blue.\n"
            "D. {text}.\n\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "mlvu",
            "longvu",
            row("Why?", FOUR),
            "Question: Why?\nOptions:\n(A) Red\n(B) Green\n(C) Blue\n(D) {label}\n"
            "Respond with only the letter (A, B, C or D) of the correct option.",
        ),
        (
            "mlvu",
            "official",
            row("Why?", FOUR),
            "Question: Why?\nOptions:\n(A) Red\n(B) Green\n(C) Blue\n(D) {label}\nOnly give the best option.",
        ),
        (
            "mlvu",
            "lmms",
            row("Why?", FOUR),
            "Why?\n(A) Red\n(B) Green\n(C) Blue\n(D) {label}\nOnly give the best option.\nBest option: (",
        ),
        ("mlvu_generation", "official", row("Describe {x}."), "Describe {x}."),
        (
            "nextqa",
            "videollamb",
            row("why", FIVE),
            "why\nA. Red\nB. Green\nC. Blue\nD. {label}\nE. White\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        ("nextqa", "lmms", row("why", FIVE), "why\nA. Red\nB. Green\nC. Blue\nD. {label}\nE. White"),
        (
            "egoplan",
            "lmms",
            row(GOAL, FOUR),
            GOAL + "\nA. Red\nB. Green\nC. Blue\nD. {label}\nAnswer with the option's letter from the given choices",
        ),
        ("egoplan", "official", row(GOAL, FOUR), GOAL),
        ("msvd_qa", "llamavid", row("what is jumping?"), "what is jumping?"),
        (
            "activitynet_qa",
            "lmms",
            row("Is the man wearing a hat?"),
            "Is the man wearing a hat? Answer the question using a single word or phrase.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_published_prompt(name: str, preset: str, asked: Row, prompt: str) -> None:
    assert task(name, preset).prompt(asked) == prompt


@pytest.mark.parametrize(
    ("name", "rule", "thresholds"),
    [
        ("egoschema", "egoschema", {"drop_threshold": 0.8, "dino_threshold": 0.83}),
        ("mvbench", "mvbench", {"drop_threshold": 0.8, "dino_threshold": 0.83}),
        ("video_mme", "video_mme", {"drop_threshold": 0.65, "dino_threshold": 0.83}),
        ("mlvu", "mlvu", {"drop_threshold": 0.77, "dino_threshold": 0.82}),
    ],
)
def test_longvu_settings(name: str, rule: str, thresholds: dict[str, float]) -> None:
    chosen = task(name, "longvu")
    published = PUBLISHED_SAMPLING[rule]
    assert str(chosen.sampling) == str(published).replace(",zero_step:raise", "")
    assert (chosen.preset.model_settings, chosen.max_new_tokens, chosen.preset.temperature) == (thresholds, 5, 0.0)


@pytest.mark.parametrize(("name", "frames"), [("egoschema", 16), ("egoplan", 16), ("nextqa", 8), ("mvbench", 8)])
def test_videollamb_settings(name: str, frames: int) -> None:
    preset = task(name, "videollamb").preset
    assert (preset.sampling, preset.temperature, preset.max_new_tokens) == (f"uniform:{frames}", 0.2, 1024)


@pytest.mark.parametrize("name", ["msvd_qa", "msrvtt_qa", "activitynet_qa"])
def test_llamavid_settings(name: str) -> None:
    preset = task(name, "llamavid").preset
    assert (preset.sampling, preset.temperature, preset.max_new_tokens) == ("fps:1", 0.2, 1024)


@pytest.mark.parametrize("name", ["mvbench", "mlvu"])
def test_a_begun_answer_is_read_with_its_beginning(name: str) -> None:
    chosen, asked = task(name, "official"), Row("1", "Why?", None, FOUR, "A")
    assert chosen.preset.reply_prefix.endswith("(")
    assert [chosen.score(asked, reply).score for reply in ("A) Red", "A", "B) Green")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("goal", ["wash cup", "the goal is to wash cup"])
def test_goals(goal: str) -> None:
    from pipelines.evaluate.tasks.egoplan import next_action_question

    assert next_action_question(goal) == GOAL
    assert next_action_question("washing cup").startswith("I am tasked with washing cup. The task's")


def test_every_task_says_where_its_files_come_from() -> None:
    for name in task_names():
        cls = task_class(name)
        assert cls.name == name and cls.about and cls.layout in cls.where_from().replace("\n    ", "\n")
        assert cls.source in cls.where_from()


Build = Callable[[], object]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: task("egoshema"), "task 'egoshema' is not known; did you mean egoschema"),
        (lambda: task("zzz"), "there are egoschema, mvbench"),
        (lambda: task("mvbench", "long"), "preset 'long' of mvbench: use one of longvu, official"),
        (lambda: task("video_mme", options=["subtitle=true"]), "unknown key; did you mean subtitles"),
        (lambda: task("needle_grid", options=["repeats=0"]), "repeats=0"),
    ],
)
def test_mistakes_are_named(build: Build, message: str) -> None:
    from pipelines.errors import UserError

    with pytest.raises(UserError, match=message):
        build()
