"""Answers are durable before they count, found by what was asked, and taken together without losing any."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.evaluate.answers import Answer, AnswerLog, digest_of
from pipelines.storage import StorageError


def answer(key: str, reply: str | None = "A", time_s: float = 1.0, cause: str | None = None) -> Answer:
    return Answer(
        key, f"row {key}", f"origin {key}", "" if cause else f"media {key}", reply, cause=cause, time_s=time_s
    )


def replies(log: AnswerLog) -> dict[str, str | None]:
    return {key: found.reply for key, found in log.answers.items()}


def test_what_was_added_is_there_for_everybody_else(tmp_path: Path) -> None:
    with AnswerLog(str(tmp_path)) as log, ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: log.add(answer(str(number))), range(200)))
        assert replies(AnswerLog(str(tmp_path))) == replies(log) == {str(number): "A" for number in range(200)}
    assert len(list(tmp_path.iterdir())) <= 200
    assert AnswerLog(str(tmp_path)).media["origin 7"] == "media 7"


def test_answer_is_durable_when_add_returns(tmp_path: Path) -> None:
    with AnswerLog(str(tmp_path)) as log:
        for number in range(5):
            log.add(answer(str(number)))
            assert str(number) in AnswerLog(str(tmp_path)).answers


def test_everything_survives_the_round_trip(tmp_path: Path) -> None:
    full = Answer(
        "k",
        "r",
        "o",
        "m",
        None,
        (-0.5, -2.25),
        None,
        None,
        "Was this «asked»?\n",
        {"visual_tokens": 7, "damage": None},
        3.5,
    )
    with AnswerLog(str(tmp_path)) as log:
        log.add(full)
    assert AnswerLog(str(tmp_path)).answers["k"] == full


def test_merging_keeps_all_and_leaves_others_alone(tmp_path: Path) -> None:
    with AnswerLog(str(tmp_path)) as log, AnswerLog(str(tmp_path)) as other:
        for number in range(20):
            log.add(answer(str(number)))
        other.add(answer("late"))
        reader = AnswerLog(str(tmp_path))
        log.merge()
        assert len(list(tmp_path.iterdir())) == 2, "one for the twenty, one that this log had not read"
        reader.refresh()
        assert set(replies(AnswerLog(str(tmp_path)))) == set(replies(reader)) == {*map(str, range(20)), "late"}
        log.refresh()
        log.merge()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(AnswerLog(str(tmp_path)).answers) == 21


def test_reading_while_others_write_and_merge(tmp_path: Path) -> None:
    """Objects vanish under readers; no answer that was there is ever missing."""
    stop = threading.Event()
    lost: list[set[str]] = []

    def read() -> None:
        known: set[str] = set()
        while not stop.is_set():
            found = set(AnswerLog(str(tmp_path)).answers)
            if not known <= found:
                lost.append(known - found)
            known |= found

    reader = threading.Thread(target=read)
    reader.start()
    with AnswerLog(str(tmp_path)) as log:
        for number in range(120):
            log.add(answer(str(number)))
            if number % 10 == 9:
                log.merge()
    stop.set()
    reader.join()
    assert not lost and len(AnswerLog(str(tmp_path)).answers) == 120


def test_a_reply_outweighs_a_failure_and_the_first_reply_counts(tmp_path: Path) -> None:
    with AnswerLog(str(tmp_path)) as log:
        log.add(answer("a", None, 1.0, cause="Missing"))
        log.add(answer("a", "B", 2.0))
        log.add(answer("a", "C", 3.0))
        log.add(answer("b", "D", 1.0))
        log.add(answer("b", None, 0.5, cause="ServerError"))
        log.add(answer("c", None, 1.0, cause="Corrupt"))
        log.add(answer("c", None, 2.0, cause="Timeout"))
    for found in (log, AnswerLog(str(tmp_path))):
        assert replies(found) == {"a": "B", "b": "D", "c": None}
        assert found.answers["c"].cause == "Timeout", "the latest word on what failed again"


def test_a_full_disk_is_told_to_whoever_adds(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    log = AnswerLog(str(tmp_path / "answers"))
    (tmp_path / "answers").write_text("a file where the folder should be")
    with log, pytest.raises(StorageError):
        log.add(answer("a"))


def test_on_s3(s3: str) -> None:
    folder = f"{s3}/evaluate/answers/log"
    with AnswerLog(folder) as log:
        for number in range(5):
            log.add(answer(str(number)))
        assert len(AnswerLog(folder).answers) == 5
        log.merge()
    assert len(list(storage.listing(folder))) == 1 and len(AnswerLog(folder).answers) == 5


def test_digest_ignores_order_of_keys_only() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1}) != digest_of({"a": 1, "b": [2, 1]})
