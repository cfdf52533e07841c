"""`longvu chat`: a conversation in the terminal with a model of this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.chat import chat, main
from jobs.cli import main as longvu
from pipelines.chat_client import ChatError, Conversation, Seen

SEEN = Seen(kept_times_s=[[0.0, 2.5]], num_sampled=[4], visual_tokens=1200, regime="full", seconds={"first_token": 0.5})


class Scripted:
    """Answers with what was asked, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.closed = 0

    def __call__(self, messages: list[dict[str, Any]]) -> Iterator[str | Seen]:
        self.requests.append(messages)
        question = messages[-1]["content"][-1]["text"]
        try:
            yield "You asked: "
            if question == "interrupt":
                raise KeyboardInterrupt
            if question == "fail":
                raise ChatError("the endpoint is full; ask again")
            yield question
            yield SEEN
        finally:
            self.closed += 1


def test_a_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    answer, video = Scripted(), {"type": "video"}
    chat(Conversation(video), answer, iter(["/frames", "first", "", "second", "/frames", "/new", "third", "/what"]))
    first = {"role": "user", "content": [video, {"type": "text", "text": "first"}]}
    said = {"role": "assistant", "content": "You asked: first"}
    second = {"role": "user", "content": [{"type": "text", "text": "second"}]}
    third = {"role": "user", "content": [video, {"type": "text", "text": "third"}]}
    assert answer.requests == [[first], [first, said, second], [third]]
    shown = capsys.readouterr()
    assert shown.out == "You asked: first\nYou asked: second\nYou asked: third\n"
    notes = shown.err.splitlines()
    assert notes[0] == "(ask something first)"
    assert notes[1] == "(2 of 4 frames kept · 1,200 visual tokens · full regime · first word after 0.5 s)"
    assert notes[3] == "2 of 4 frames kept, at seconds 0.0, 2.5"
    assert "/what: no such command" in notes[-1]


def test_stopped_and_failed_answers_are_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Scripted()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chat(Conversation({"type": "video"}), answer, iter(["interrupt", "fail", "last"]))
    assert len(answer.requests[-1]) == 1 and answer.closed == 3
    shown = capsys.readouterr()
    assert "(stopped)" in shown.err and "error: the endpoint is full; ask again" in shown.err
    assert shown.out.endswith("You asked: last\n")


def test_with_a_model_here(video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first answer is that of `longvu ask`, and the second one knows the first."""
    question = "Which colour does the shape have?"
    assert longvu(["ask", str(video), question, "--max-new-tokens", "12", "--device", "cpu"]) == 0
    alone = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{question}\n{question}\n/frames\n"))
    assert main([str(video), "--max-new-tokens", "12", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()
    assert first.strip() == alone.strip() and second
    assert "random weights" in shown.err and shown.err.count("visual tokens") == 2
    assert "frames kept, at seconds 0.0" in shown.err


def test_a_file_that_is_no_video(bad_video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bad_video)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and str(bad_video) in shown.err and not shown.out
    assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1: the connection failed (ConnectError)"),
        (["--url", "http://127.0.0.1:9/v1", "--device", "cpu"], "--device goes with a model here"),
        (["--model", "/missing"], "--model /missing"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_mistakes(words: list[str], said: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(video), *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {said}") and len(shown.err.splitlines()) == 1 and not shown.out
