"""Open answers and a scripted judge on a real server: each verdict asked for once, unreadable ones never scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluate.evaluation import Evaluation
from pipelines.evaluate.tasks.samples import write_sample
from tests.pipelines.evaluate.conftest import run_against
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, text_of

JUDGE = "scripted-judge"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample("msvd_qa", tmp_path_factory.mktemp("sample")).data


def script(request: dict[str, Any]) -> Scripted:
    """The model says "square" to everything; the judge finds some of that right, by what it is shown."""
    if request["model"] != JUDGE:
        return Scripted("square")
    return Scripted(
        "{'pred': 'yes', 'score': 4}" if "Correct Answer: square" in text_of(request) else "{'pred': 'no', 'score': 1}"
    )


def evaluate(server: ScriptedEndpoint, folder: Path, data: Path, *words: str) -> Evaluation:
    judge = ("options.judge=true", f"judge.endpoint={server.url}", f"judge.model={JUDGE}", "judge.requests.attempts=2")
    return run_against(server.url, folder, data, *judge, *words, task="msvd_qa")


def asked(server: ScriptedEndpoint) -> tuple[int, int]:
    """Requests to the model and to the judge."""
    judged = sum(request["model"] == JUDGE for request in server.requests)
    return len(server.requests) - judged, judged


def test_verdicts_are_scores_and_are_asked_for_once(tmp_path: Path, data: Path) -> None:
    with ScriptedEndpoint(script) as server:
        done = evaluate(server, tmp_path, data)
        rows = done.results.rows.to_pylist()
        replies = len({(row["question"], row["answer"]) for row in rows})
        assert asked(server)[1] == done.judged == replies
        before = asked(server)
        again = evaluate(server, tmp_path, data)
        assert asked(server) == before and again.judged == again.asked == 0
    assert [row["score"] for row in rows] == [float(row["answer"] == "square") for row in rows]
    assert all("pred" in row["judge"] for row in rows)
    assert done.results.summary["judge"]["model"] == JUDGE
    assert done.results.summary["details"], "the judge's second number is summed up too"


def test_another_judge_costs_no_replies(tmp_path: Path, data: Path) -> None:
    with ScriptedEndpoint(script) as server:
        evaluate(server, tmp_path, data)
        replies, verdicts = asked(server)
        evaluate(server, tmp_path, data, "judge.max_tokens=99")
        assert asked(server) == (replies, 2 * verdicts)


def test_an_unreadable_verdict_is_asked_for_again_and_then_no_score(tmp_path: Path, data: Path) -> None:
    def muttering(request: dict[str, Any]) -> Scripted:
        if request["model"] == JUDGE and "Correct Answer: square" not in text_of(request):
            return (
                script(request) if request["seed"] == 1 and "what" in text_of(request).lower() else Scripted("Well...")
            )
        return script(request)

    with ScriptedEndpoint(muttering) as server:
        done = evaluate(server, tmp_path, data)
        before = asked(server)
        assert evaluate(server, tmp_path, data).judged == 0 and asked(server) == before
        seeds = sorted(request["seed"] for request in server.requests if request["model"] == JUDGE)
    assert set(seeds) <= {0, 1, 2} and 1 in seeds
    failed = [row for row in done.results.rows.to_pylist() if row["status"] == "failed"]
    assert all(
        row["cause"] == "JudgeUnreadable" and row["score"] is None and row["judge"] == "Well..." for row in failed
    )
    assert done.results.summary["counts"]["scored"] + len(failed) == done.results.summary["counts"]["rows"]


def test_a_judge_that_refuses_one_question_fails_that_one(tmp_path: Path, data: Path) -> None:
    def picky(request: dict[str, Any]) -> Scripted:
        if request["model"] == JUDGE and "Correct Answer: square" not in text_of(request):
            return Scripted("policy", 400)
        return script(request)

    with ScriptedEndpoint(picky) as server:
        summary = evaluate(server, tmp_path, data).results.summary
        assert set(summary["causes"]) == {"JudgeRequestRefused"}
        server.script = script
        assert evaluate(server, tmp_path, data, "retry_failed=true").results.summary["counts"]["failed"] == 0
