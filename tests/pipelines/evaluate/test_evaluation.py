"""Whole evaluations; the endpoint is a real server with a scripted model: what is asked, once, and what is scored."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from longvu_model.video import FrameSampling
from pipelines.errors import JobStopped, UserError
from pipelines.evaluate.evaluation import TOO_MANY_FAILED_EXIT, Evaluation
from pipelines.evaluate.preparation import prepare
from pipelines.evaluate.tasks.samples import write_sample
from tests.pipelines.evaluate.conftest import config_of, run_against
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, by_checksum, media_of, text_of
from tests.pipelines.evaluate.small_benchmark import video_file, video_name

QUESTIONS = 12


def question_of(request: dict[str, Any]) -> str:
    """The benchmark's question inside a prompt."""
    return text_of(request).split("\n")[0].removeprefix("Question: ")


def rows_of(done: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in done.results.rows.to_pylist()}


def test_scores_are_those_of_the_replies_and_a_second_run_asks_nothing(tmp_path: Path, small_benchmark: Path) -> None:
    with ScriptedEndpoint() as server:
        done = run_against(server.url, tmp_path, small_benchmark)
        assert Counter(map(question_of, server.requests)).most_common(1)[0][1] == 1
        assert len(server.requests) == done.asked == QUESTIONS
        again = run_against(server.url, tmp_path, small_benchmark)
        renamed = run_against(server.url, tmp_path, small_benchmark, name="other")
        assert len(server.requests) == QUESTIONS
    expected = {}
    for video in range(4):
        for question in range(3):
            request = next(
                one
                for one in server.requests
                if question_of(one) == f"what colour is shape {question} of video {video}"
            )
            expected[f"{video_name(video)}_{question}"] = float(
                by_checksum(request).text == "ABCDE"[(video + question) % 5]
            )
    found = rows_of(done)
    assert {row_id: row["score"] for row_id, row in found.items()} == expected
    summary = done.results.summary
    assert summary["headline"]["value"] == pytest.approx(sum(expected.values()) / QUESTIONS)
    assert summary["headline"]["clusters"] == 4 and summary["chance"] == pytest.approx(0.2)
    assert set(summary["categories"]) == {"group", "type"} and summary["categories"]["group"]["causal"]["n"] == 4
    assert again.asked == renamed.asked == 0 and again.tracked is None
    assert again.results.summary == summary
    assert renamed.results.summary["headline"] == summary["headline"] and renamed.results.uri != done.results.uri


def test_the_result_says_what_decided_it(tmp_path: Path, small_benchmark: Path) -> None:
    with ScriptedEndpoint() as server:
        done = run_against(server.url, tmp_path, small_benchmark, frames="uniform:2")
        assert {len(media_of(request)) for request in server.requests} == {2}
    found = done.results.summary
    assert found["frames"] == "uniform:2" == found["task"]["sampling"]
    assert found["task"]["preset"] == "default" and "Respond with only the letter" in found["task"]["prompt"]
    assert found["model"]["endpoint"] == server.url and found["subtitles"] is False
    assert {"torch", "openai", "code"} <= set(found["versions"])
    folder = Path(done.results.uri.removeprefix("file://"))
    assert {"results.json", "results.parquet", "report.md", "report.html", "nextqa_result.json"} == {
        path.name for path in folder.iterdir()
    }
    submitted = json.loads((folder / "nextqa_result.json").read_text())
    assert len(submitted) == QUESTIONS and set(submitted[f"{video_name(0)}_0"]) == {"prediction", "answer"}
    assert pq.read_table(folder / "results.parquet").num_rows == QUESTIONS


def test_unusable_videos_are_counted_apart_with_their_cause(tmp_path: Path, benchmark: Path) -> None:
    video_file(benchmark, 0).unlink()
    video_file(benchmark, 1).write_text("this is no video")
    with ScriptedEndpoint() as server:
        done = run_against(server.url, tmp_path, benchmark, "media.max_duration_s=2")
        assert not server.requests, "nothing about unusable videos is asked"
    found = rows_of(done)
    causes = [{found[f"{video_name(video)}_{question}"]["cause"] for question in range(3)} for video in range(4)]
    assert causes == [{"Missing"}, {"NotAVideo"}, {"TooLong"}, {"TooLong"}]
    assert all(row["score"] is None and row["status"] == "failed" and row["message"] for row in found.values())
    summary = done.results.summary
    assert summary["headline"]["n"] == 0 and summary["headline"]["value"] is None
    assert summary["causes"]["TooLong"]["questions"] == 6
    assert "media.max_duration_s=2" in summary["causes"]["TooLong"]["example"]
    assert done.exit_code == TOO_MANY_FAILED_EXIT
    with ScriptedEndpoint() as server:
        unlimited = run_against(server.url, tmp_path, benchmark)
        assert unlimited.results.summary["counts"]["scored"] == 6, "another limit, another outcome"


def test_a_damaged_file_fails_unless_its_good_part_is_asked_about(tmp_path: Path, benchmark: Path) -> None:
    # Matroska: unlike MP4, its beginning can be read without its end.
    import av

    path = video_file(benchmark, 2)
    whole = path.with_suffix(".mkv")
    with av.open(str(path)) as source, av.open(str(whole), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    with ScriptedEndpoint() as server:
        strict = run_against(server.url, tmp_path, benchmark)
        asked = run_against(server.url, tmp_path, benchmark, "media.damaged=ask")
        assert len(server.requests) == QUESTIONS
    assert strict.results.summary["causes"] == {
        "Damaged": {"questions": 3, "example": strict.results.summary["causes"]["Damaged"]["example"]}
    }
    assert asked.results.summary["counts"]["scored"] == QUESTIONS
    assert rows_of(asked)[f"{video_name(2)}_0"]["damage"] and not rows_of(asked)[f"{video_name(1)}_0"]["damage"]


def test_a_video_that_appears_is_asked_about_without_being_told(tmp_path: Path, benchmark: Path) -> None:
    away = video_file(benchmark, 0).rename(tmp_path / "away.mp4")
    with ScriptedEndpoint() as server:
        assert run_against(server.url, tmp_path, benchmark).results.summary["counts"]["failed"] == 3
        away.rename(video_file(benchmark, 0))
        done = run_against(server.url, tmp_path, benchmark)
        assert done.asked == 3 and len(server.requests) == QUESTIONS
    assert done.results.summary["counts"]["scored"] == QUESTIONS


def test_answers_belong_to_content_not_to_names(tmp_path: Path, benchmark: Path) -> None:
    with ScriptedEndpoint() as server:
        run_against(server.url, tmp_path, benchmark)
        moved = Path(shutil.copytree(benchmark, tmp_path / "elsewhere"))
        assert run_against(server.url, tmp_path, moved).asked == QUESTIONS, "its files have to be looked at"
        assert len(server.requests) == QUESTIONS, "but nothing is asked"
        shutil.copyfile(video_file(moved, 1), video_file(moved, 0))
        changed = run_against(server.url, tmp_path, moved)
        assert changed.results.summary["counts"]["scored"] == QUESTIONS
        # Video 0 now shows what video 1 shows, but its questions are others.
        assert len(server.requests) == QUESTIONS + 3
        run_against(server.url, tmp_path, moved, "generation.max_new_tokens=9")
        assert len(server.requests) == 2 * QUESTIONS + 3


def test_a_question_that_is_repeated_is_asked_once(tmp_path: Path, benchmark: Path) -> None:
    path = benchmark / "nextqa" / "val.csv"
    lines = path.read_text().splitlines()
    fields = lines[1].split(",")
    fields[6] = "77"
    path.write_text("\n".join([*lines, ",".join(fields)]) + "\n")
    with ScriptedEndpoint() as server:
        done = run_against(server.url, tmp_path, benchmark)
        assert len(server.requests) == QUESTIONS
    found = rows_of(done)
    assert len(found) == QUESTIONS + 1 and found[f"{video_name(0)}_77"]["reply"] == found[f"{video_name(0)}_0"]["reply"]


def test_unparsed_is_neither_right_nor_wrong(tmp_path: Path, small_benchmark: Path) -> None:
    def evasive(request: dict[str, Any]) -> Scripted:
        return Scripted("I cannot say." if "shape 1" in text_of(request) else "A")

    with ScriptedEndpoint(evasive) as server:
        done = run_against(server.url, tmp_path, small_benchmark)
    summary = done.results.summary
    assert (summary["counts"]["scored"], summary["counts"]["unparsed"]) == (8, 4)
    right = summary["headline"]["value"] * 8
    assert summary["unparsed_as_wrong"]["n"] == 12
    assert summary["unparsed_as_wrong"]["value"] == pytest.approx(right / 12)
    assert summary["categories"]["group"]["temporal"]["unparsed"] == 4
    assert done.exit_code == 0


def test_an_endpoint_that_goes_away_stops_the_run_and_what_is_answered_stays(
    tmp_path: Path, small_benchmark: Path, short_waits: None
) -> None:
    left = [5]

    def tired(request: dict[str, Any]) -> Scripted:
        left[0] -= 1
        return by_checksum(request) if left[0] >= 0 else Scripted("overloaded", 503)

    with ScriptedEndpoint(tired) as server:
        with pytest.raises(JobStopped, match="still 503"):
            run_against(server.url, tmp_path, small_benchmark)
        answered = {question_of(request) for request in server.requests[:5]}
        server.script, before = by_checksum, len(server.requests)
        done = run_against(server.url, tmp_path, small_benchmark)
        later = [question_of(request) for request in server.requests[before:]]
    assert done.results.summary["counts"]["scored"] == QUESTIONS
    assert len(later) == QUESTIONS - 5 and not answered & set(later)


def test_what_failed_is_asked_again_only_on_demand(tmp_path: Path, small_benchmark: Path, short_waits: None) -> None:
    def shaky(request: dict[str, Any]) -> Scripted:
        return Scripted("it crashed", 500) if "shape 2" in text_of(request) else by_checksum(request)

    with ScriptedEndpoint(shaky) as server:
        first = run_against(server.url, tmp_path, small_benchmark)
        assert first.results.summary["causes"]["ServerError"]["questions"] == 4
        before, server.script = len(server.requests), by_checksum
        assert run_against(server.url, tmp_path, small_benchmark).results.summary["counts"]["failed"] == 4
        assert len(server.requests) == before
        done = run_against(server.url, tmp_path, small_benchmark, "retry_failed=true")
        assert len(server.requests) == before + 4
        assert run_against(server.url, tmp_path, small_benchmark).asked == 0
    assert done.results.summary["counts"]["scored"] == QUESTIONS


def test_answers_and_results_on_s3(s3: str, tmp_path: Path, small_benchmark: Path) -> None:
    with ScriptedEndpoint() as server:
        done = run_against(server.url, tmp_path, small_benchmark, output=f"{s3}/evaluations")
        assert run_against(server.url, tmp_path, small_benchmark, output=f"{s3}/evaluations").asked == 0
        assert len(server.requests) == QUESTIONS
    assert done.results.uri.startswith(f"{s3}/evaluations/evaluate/nextqa-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=nextq"], "did you mean nextqa"),
        (["preset=longvu"], "use one of"),
        (["options.split=train"], "split"),
        (["frames=often"], "frames=often"),
        (["mode=likelihood", "endpoint=http://x/v1"], "needs a local checkpoint"),
        (["store=s", "endpoint=http://x/v1"], "takes videos, not features"),
        (["task=msvd_qa", "options.judge=true"], "judge.endpoint=URL"),
        (["data=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(
    tmp_path: Path, small_benchmark: Path, words: list[str], message: str
) -> None:
    data = write_sample("msvd_qa", tmp_path / "msvd").data if "task=msvd_qa" in words else small_benchmark
    with pytest.raises(UserError, match=message):
        prepare(config_of(tmp_path, data, *words), None)


def test_sampling_is_part_of_what_is_asked(tmp_path: Path, small_benchmark: Path) -> None:
    one, other = (config_of(tmp_path, small_benchmark, frames=frames) for frames in ("fps:1", "uniform:4"))
    assert one.digest() != other.digest() and one.frames == str(FrameSampling(fps=1.0))
    assert (
        config_of(tmp_path, small_benchmark, "workers.count=3").digest()
        == config_of(tmp_path, small_benchmark).digest()
    )
