"""Two runs side by side: the same numbers here, in results.json and in MLflow; nothing is left out unsaid."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import compare_main
from pipelines.errors import UserError
from pipelines.evaluate.compare import Comparison, compare, find_run, print_comparison
from pipelines.evaluate.evaluation import Evaluation
from pipelines.evaluate.results import Results, metrics
from pipelines.evaluate.statistics import mcnemar
from pipelines.intervals import wilson95
from pipelines.tracking import TrackedRun, read_run
from tests.pipelines.evaluate.conftest import run_against
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, text_of
from tests.pipelines.evaluate.small_benchmark import COLOURS


def right_about(shapes: str) -> Callable[[dict[str, Any]], Scripted]:
    """A model that knows the answer to questions about some shapes and says nothing readable about shape 2."""

    def script(request: dict[str, Any]) -> Scripted:
        words = text_of(request).split("\n")[0].split()
        shape, video = words[5], words[-1]
        right = (int(shape) + int(video)) % len(COLOURS)
        if shape == "2":
            return Scripted("I am not sure.")
        return Scripted("ABCDE"[right if shape in shapes else (right + 1) % len(COLOURS)])

    return script


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, small_benchmark: Path) -> tuple[Evaluation, Evaluation, Path]:
    """The first knows shape 0, the second shapes 0 and 1; also the workdir."""
    folder = tmp_path_factory.mktemp("compare")
    runs = []
    for shapes in ("0", "01"):
        with ScriptedEndpoint(right_about(shapes)) as server:
            runs.append(run_against(server.url, folder / shapes, small_benchmark, name=f"knows-{shapes}"))
    return runs[0], runs[1], folder / "work"


@pytest.fixture(scope="module")
def compared(pair: tuple[Evaluation, Evaluation, Path]) -> Comparison:
    return compare(pair[0].results, pair[1].results)


def test_the_paired_test_counts_what_differs(compared: Comparison) -> None:
    assert compared.pairs == 8 and compared.apart == {"not scored in both": 4}
    assert compared.overall is not None and compared.overall.difference.value == 0.5
    assert (compared.overall.first_only, compared.overall.second_only) == (0, 4)
    assert compared.overall.mcnemar_p == mcnemar(0, 4) == 0.125
    groups = compared.categories["group"]
    assert {name: found.difference.value for name, found in groups.items()} == {"causal": 0.0, "temporal": 1.0}
    assert {name for name, _, _ in compared.differences} == {"model.endpoint"}


def test_mlflow_has_the_same_numbers(pair: tuple[Evaluation, Evaluation, Path], compared: Comparison) -> None:
    shown = compared.as_json()
    for done, run in zip(pair[:2], shown["runs"], strict=True):
        record = read_run(pair[2], done.results.summary["mlflow"]["run_id"])
        assert record is not None and record.output == done.results.uri
        assert record.metrics == run["metrics"] == metrics(done.results.summary)
        assert record.metrics["accuracy"] == done.results.summary["headline"]["value"]
        assert record.metrics["count/unparsed"] == 4 and record.tags["longvu.task"] == "nextqa"


def test_a_run_is_found_by_folder_and_by_mlflow_id(
    pair: tuple[Evaluation, Evaluation, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, workdir = pair
    ids = [done.results.summary["mlflow"]["run_id"] for done in (first, second)]
    assert compare_main([ids[0], second.results.uri, "--workdir", str(workdir), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["pairs"] == 8 and shown["overall"]["second_only"] == 4
    assert [run["mlflow"]["run_id"] for run in shown["runs"]] == ids
    assert compare_main(["0" * 32, ids[1], "--workdir", str(workdir)]) == 2
    assert "neither a folder nor a run that MLflow knows" in capsys.readouterr().err


def test_numbers_that_mlflow_does_not_share_are_an_error(pair: tuple[Evaluation, Evaluation, Path]) -> None:
    first, _, workdir = pair
    changed = {**first.results.summary, "headline": {**first.results.summary["headline"], "value": 0.123}}
    Results(first.results.uri, changed, first.results.rows).write()
    try:
        with pytest.raises(UserError, match=r"MLflow has accuracy=0\.5"):
            find_run(first.results.summary["mlflow"]["run_id"], workdir)
    finally:
        first.results.write()


def test_the_tables_say_what_is_compared(compared: Comparison) -> None:
    out = io.StringIO()
    print_comparison(compared, out)
    text = out.getvalue()
    assert "paired: 8 questions, 4 not scored in both" in text
    assert "difference  +50.0" in text and "0 right only in the first, 4 only in the second" in text
    assert "temporal" in text and "+100.0 %" in text


def test_scores_without_spread_have_intervals_of_their_own(
    pair: tuple[Evaluation, Evaluation, Path], compared: Comparison
) -> None:
    """Four videos: one question of each right and one wrong, and all right."""
    headlines = [done.results.summary["headline"] for done in pair[:2]]
    assert [found["se"] for found in headlines] == [0, 0]
    assert [found["wilson95"] for found in headlines] == [
        pytest.approx(wilson95(0.5, 8)),
        pytest.approx(wilson95(1, 4)),
    ]
    out = io.StringIO()
    print_comparison(compared, out)
    text = out.getvalue()
    assert "50.0 % (95 %: 21.5 to 78.5 %)" in text and "100.0 % (95 %: 51.0 to 100.0 %)" in text
    assert "difference  +50.0 %  (second minus first; the same in every video: no interval)" in text
    assert "± 0.0" not in text and "bootstrap" not in text


def test_runs_without_a_common_question_cannot_be_compared(pair: tuple[Evaluation, Evaluation, Path]) -> None:
    first = pair[0].results
    other = Results(first.uri, first.summary, first.rows.set_column(0, "row", [[f"x{n}" for n in range(12)]]))
    with pytest.raises(UserError, match="no question in common"):
        compare(first, other)


def test_an_evaluation_is_linked_to_what_it_builds_on(tmp_path: Path) -> None:
    """To the extraction of its store, and to the LoggedModel that training made of the checkpoint."""
    from mlflow.tracking import MlflowClient

    from pipelines.tracking import RunIdentity, tracking_uri

    with TrackedRun(tmp_path, RunIdentity("extract", "extract", "file:///store")) as extract:
        pass
    with TrackedRun(tmp_path, RunIdentity("train", "train", "file:///run")) as train:
        train.steps([(8, {"loss": 1.0})], checkpoint="file:///run/checkpoints/8")
    (tmp_path / "report.html").write_text("<p>here")
    for _ in range(2):  # a restart changes nothing
        with TrackedRun(tmp_path, RunIdentity("evaluate", "eval", "file:///eval")) as run:
            run.link_output("extract", "file:///store")
            run.link_output("serve", "file:///nobody")
            run.evaluated("file:///run/checkpoints/8", "d1", {"accuracy": 0.25})
            run.artifacts({"report.html": (tmp_path / "report.html").as_uri()})
    record = read_run(tmp_path, str(run.run_id))
    assert record is not None and record.tags["longvu.link.extract"] == extract.run_id
    assert "longvu.link.serve" not in record.tags
    client = MlflowClient(tracking_uri(tmp_path))
    [model] = client.search_logged_models([client.get_run(str(run.run_id)).info.experiment_id])
    assert model.source_run_id == train.run_id
    assert {metric.key: metric.value for metric in model.metrics or []}["accuracy"] == 0.25
    assert [file.path for file in client.list_artifacts(str(run.run_id))] == ["report.html"]
