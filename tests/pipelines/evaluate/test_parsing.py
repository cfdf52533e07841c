"""The strict parser on adversarial replies, and the properties that hold for every reply."""

from __future__ import annotations

import itertools
import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluate.parsing import MAX_OPTIONS, parse_choice
from pipelines.evaluate.parsing.__main__ import Reading, main, read_readings

REPLIES = Path(__file__).with_name("replies.jsonl")
OPTIONS = ("red car", "blue bus", "green bike", "white van")
ANNOUNCEMENTS = (
    "The answer is {}.",
    "{}",
    "({})",
    "I choose {}",
    "答案是{}。",
    "La respuesta es la {}.",
    "정답은 {}입니다.",
)
WRAPPINGS = (
    "{}",
    "**{}**",
    "_{}_",
    "`{}`",
    "# {}",
    "> {}",
    "- {}",
    "<b>{}</b>",
    "<p>{}</p>",
    "$\\boxed{{{}}}$",
    "```\n{}\n```",
)


def readings() -> list[Reading]:
    return list(read_readings(REPLIES))


def test_no_reply_is_misread() -> None:
    wrong = [
        (reading.where, reading.reply, reading.answer, label)
        for reading in readings()
        if (label := parse_choice(reading.reply, reading.options)) != reading.answer
    ]
    assert not wrong


def test_the_file_asks_for_silence_as_well_as_for_labels() -> None:
    answers = [reading.answer for reading in readings()]
    assert len(answers) >= 600
    assert 0.25 < sum(answer is None for answer in answers) / len(answers) < 0.75


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("announcement", ANNOUNCEMENTS)
def test_wrapping_changes_nothing(announcement: str, wrapping: str) -> None:
    assert parse_choice(wrapping.format(announcement.format("C")), OPTIONS) == "C"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_an_option_text_follows_its_option(order: tuple[int, ...]) -> None:
    options = [OPTIONS[index] for index in order]
    expected = string.ascii_uppercase[options.index("blue bus")]
    for reply in ("Blue bus.", "It is the blue bus, not the red car.", "I see a blue bus.", "Final answer: blue bus"):
        assert parse_choice(reply, options) == expected


@given(
    label=st.sampled_from("ABCD"),
    text=st.sampled_from(ANNOUNCEMENTS),
    spaces=st.text("   \u00a0\u3000\u200b\n", max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_case_and_space_change_nothing(label: str, text: str, spaces: str) -> None:
    assert parse_choice(spaces + text.format(label) + spaces, OPTIONS) == label
    if text.isascii() and text != "{}":
        assert parse_choice(text.format(label).upper(), OPTIONS) == label


@given(reply=st.text(max_size=200), options=st.lists(st.text(max_size=20), min_size=1, max_size=MAX_OPTIONS))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_as_a_label_within_range_or_not_at_all(reply: str, options: list[str]) -> None:
    assert parse_choice(reply, options) in (None, *string.ascii_uppercase[: len(options)])


_CUES = """A B C D E a b answer is not or and wait final ( ) . , : ? ! ** <think> </think> ~~ red car blue bus { } " |
if because 答案 不是 B입니다 не или إذا ไม่ใช่ \\boxed{ } <s> </s> ✓ 1 - 5 %"""
_WORDS = st.sampled_from([*_CUES.split(), "\n", "\u0336"])


@given(words=st.lists(_WORDS, max_size=40), joint=st.sampled_from(["", " "]))
@settings(max_examples=150, deadline=None)
def test_any_mixture_of_cues_is_read_as_a_label_within_range_or_not_at_all(words: list[str], joint: str) -> None:
    assert parse_choice(joint.join(words), OPTIONS) in (None, "A", "B", "C", "D")


_PROSE = "the video shows one man who walks slowly through some street"


@given(noise=st.lists(st.sampled_from(_PROSE.split(" ")), max_size=30))
@settings(max_examples=40, deadline=None)
def test_prose_without_a_choice_is_never_read(noise: list[str]) -> None:
    assert parse_choice(" ".join(noise), OPTIONS) is None


def test_an_endless_reply_is_read_at_both_ends() -> None:
    prose = "The video shows a street. " * 8000
    assert parse_choice(prose + "The answer is C.", OPTIONS) == "C"
    assert parse_choice("C.\n" + prose, OPTIONS) == "C"
    assert parse_choice("The answer is A.\n" + prose + "Actually, the answer is B.", OPTIONS) == "B"
    assert parse_choice(prose, OPTIONS) is None


@pytest.mark.parametrize(
    "piece", ["|A|B", "A) B) ", "one hundred ", "<think>", '{"answer":', "[a](", "A. x\n", "B\u0336"]
)
def test_an_endless_pattern_ends(piece: str) -> None:
    assert parse_choice(piece * 20_000, OPTIONS) in (None, "A", "B")


def test_a_label_past_z_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="26"):
        parse_choice("A", ["x"] * 27)


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_the_command_prints_each_misread_line_and_a_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = {"options": ["x", "y"], "reply": "The answer is B", "answer": "B", "note": 1}
    path = write(tmp_path / "replies.jsonl", right, right | {"answer": None}, right | {"answer": "A"})
    assert main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [f"{path}:2", f"{path}:3"]
    assert lines[2] == "2 of 3 replies mis-scored"
    assert main([str(write(tmp_path / "good.jsonl", right))]) == 0


def test_options_may_be_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "numbers.jsonl", {"options": [2, 3.5, "four"], "reply": "3.5", "answer": "B"})
    assert [reading.options for reading in read_readings(path)] == [("2", "3.5", "four")] and main([str(path)]) == 0


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("{", "JSON"),
        ([1], "object"),
        ({"options": ["x"], "reply": "A"}, "'answer'"),
        ({"options": "x", "reply": "A", "answer": "A"}, "options"),
        ({"options": ["x"], "reply": 3, "answer": "A"}, "reply"),
        ({"options": ["x"], "reply": "A", "answer": "B"}, "answer"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, row: object, named: str) -> None:
    path = write(tmp_path / "broken.jsonl", {"options": ["x"], "reply": "A", "answer": "A"}, row)
    command = [sys.executable, "-m", "pipelines.evaluate.parsing", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{path}:2" in done.stderr and named in done.stderr
    assert len(done.stderr.splitlines()) == 1
