"""MLflow: one run per output, continued; an unreachable server spools and loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.tracking import RunIdentity, TrackedRun, tracking_uri

IDENTITY = RunIdentity("extract", "extract tiny", "file:///store")


@pytest.fixture(autouse=True)
def local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_restart_continues_the_run_and_nothing_spooled_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TrackedRun(tmp_path, IDENTITY) as run:
        run.params({"rate": 1, "actors": 2})
        run.metrics({"frames": 10.0}, step=1)
        run.link("demo", "abc")
    first = run.run_id

    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with TrackedRun(tmp_path, IDENTITY) as run:
            run.params({"rate": 1, "actors": 4})
            run.metrics({"frames": 20.0}, step=2)
        assert run.run_id is None
        assert "could not be reached" in run.place and str(tmp_path) in run.place
        assert len(list((tmp_path / "mlflow-spool").iterdir())) == 1

    with pytest.raises(RuntimeError), TrackedRun(tmp_path, IDENTITY) as run:
        raise RuntimeError
    assert run.run_id == first
    assert not list((tmp_path / "mlflow-spool").iterdir())

    client = MlflowClient(tracking_uri=tracking_uri(tmp_path))
    data = client.get_run(str(first))
    assert data.info.status == "FAILED"
    assert data.data.params == {"rate": "1", "actors": "2"}
    assert data.data.tags["restarted.actors"] == "4"
    assert data.data.tags["longvu.link.demo"] == "abc"
    assert [metric.value for metric in client.get_metric_history(str(first), "frames")] == [10.0, 20.0]


def test_another_output_is_another_run(tmp_path: Path) -> None:
    with TrackedRun(tmp_path, IDENTITY) as one, TrackedRun(tmp_path, RunIdentity("extract", "b", "file:///b")) as two:
        assert one.run_id != two.run_id
    assert one.place.startswith("sqlite:///")


def test_jobs_that_begin_at_once_share_a_fresh_database(tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from pipelines.tracking import RunIdentity, TrackedRun
        with TrackedRun(Path({str(tmp_path)!r}), RunIdentity("extract", "twice", sys.argv[1])) as run:
            assert run.last_problem is None, run.last_problem
    """
    jobs = [subprocess.Popen([sys.executable, "-c", code, f"file:///store{number}"]) for number in range(3)]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0, 0]


def test_a_checkpoint_is_one_logged_model_with_its_last_step(tmp_path: Path) -> None:
    rows = [(1, {"loss": 3.0}), (2, {"loss": 2.0, "heldout/loss": 2.5})]
    with TrackedRun(tmp_path, IDENTITY) as run:
        run.steps([], checkpoint="file:///run/0")  # nothing is learned yet
        run.steps(rows, checkpoint="file:///run/2")
        run.steps(rows, checkpoint="file:///run/2")  # told again after a restart
        run.steps([(3, {"loss": 1.0})], checkpoint="file:///run/3")
    client = MlflowClient(tracking_uri=tracking_uri(tmp_path))
    tracked = client.get_run(str(run.run_id))
    assert [metric.value for metric in client.get_metric_history(tracked.info.run_id, "loss")] == [3.0, 2.0, 1.0]
    models = client.search_logged_models([tracked.info.experiment_id])
    by_checkpoint = {model.tags["longvu.checkpoint"]: model for model in models}
    assert len(models) == 2 and by_checkpoint.keys() == {"file:///run/2", "file:///run/3"}
    second = by_checkpoint["file:///run/2"]
    assert (second.status, second.source_run_id) == ("READY", run.run_id)
    assert {metric.key: metric.value for metric in second.metrics} == {"step": 2, "loss": 2.0, "heldout/loss": 2.5}
    assert {output.model_id: output.step for output in tracked.outputs.model_outputs} == {
        model.model_id: int(model.tags["longvu.step"]) for model in models
    }
