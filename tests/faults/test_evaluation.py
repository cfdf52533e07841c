"""SIGKILL of drivers and workers of an evaluation: the same scores, and nothing asked again that was answered."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.evaluation import CountingEndpoint, results_of, run_through_kills, start, words_of
from tests.pipelines.evaluate.conftest import run_against
from tests.pipelines.evaluate.small_benchmark import write_benchmark

VIDEOS, QUESTIONS = 8, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("faults") / "data", VIDEOS, QUESTIONS, seconds=2)


@pytest.mark.slow
def test_kills_change_no_score_and_repeat_no_answered_question(tmp_path: Path, data: Path) -> None:
    with CountingEndpoint() as server:
        words = words_of(tmp_path, data, server)
        account = run_through_kills(tmp_path, words, server, ["worker", "driver", "worker"], VIDEOS * QUESTIONS)
        assert [victim for victim, _ in account.kills][:2] == ["worker", "driver"]
        assert account.exit_codes == [-signal.SIGKILL, 0]
        assert not account.asked_after_answered
        before = len(server.requests)
        with start(tmp_path, words) as again:
            assert again.wait() == 0, again.stderr
        assert len(server.requests) == before and "nothing to ask" in again.stdout
        undisturbed = run_against(server.url, tmp_path / "undisturbed", data)
    found = results_of(tmp_path)
    assert found.summary["headline"] == undisturbed.results.summary["headline"]
    columns = ["row", "status", "score", "reply"]
    assert found.rows.select(columns).equals(undisturbed.results.rows.select(columns))
