"""Training on Ray that loses workers and drivers, or is asked to stop: the run comes to what it would have been."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from jobs.train import main
from pipelines.config import load_config
from pipelines.train.config import TrainConfig
from tests.faults.job import Job
from tests.faults.training import (
    WORKER,
    audit_lines,
    newest_cursor,
    next_step_s,
    start,
    train_through_kills,
    write_problem,
)
from tests.pipelines.train.small_run import Account, account_of

ONE_WORKER = {"workers": {"count": 1, "cpus": 0.75, "threads": 1}}

SAMPLES = 300


def undisturbed(folder: Path, samples: int, epochs: int) -> Account:
    """The same run in this process, without Ray."""
    config = write_problem(folder, samples, epochs, **ONE_WORKER)
    assert main(["--config", str(config), "--in-process"]) == 0
    return account_of(load_config(TrainConfig, config))


# What a killed driver leaves behind goes on for a second or two, which should not be the end of the run.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("victims", "samples"),
    [(["worker"], 120), (["worker", "driver"], 600)],
    ids=["worker", "worker and driver"],
)
def test_killed_workers_and_drivers_leave_no_trace(tmp_path: Path, victims: list[str], samples: int) -> None:
    """A worker is started again by Ray, a driver by the same command; losses and weights are those without a kill."""
    config = write_problem(tmp_path / "killed", samples, 1, **ONE_WORKER)
    kills, exit_codes = train_through_kills(config, victims, last=samples // 2)
    assert [kill.victim for kill in kills] == victims
    assert exit_codes == [-signal.SIGKILL] * victims.count("driver") + [0]
    found, expected = account_of(load_config(TrainConfig, config)), undisturbed(tmp_path / "undisturbed", samples, 1)
    assert found.losses == expected.losses and found.runs == 1
    assert sorted(found.losses) == list(range(1, samples // 2 + 1))
    assert found.samples == expected.samples == {0: dict.fromkeys(range(samples), 1)}
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    assert max(kill.lost for kill in kills) <= 4


@pytest.mark.slow
def test_workers_that_leave_and_come_back_learn_the_same(tmp_path: Path) -> None:
    """SIGTERM moves a worker and stops the driver, with a step's work lost to neither; 2, then 1, then 2 workers.

    The last two train with DeepSpeed.
    """
    config, audit = write_problem(tmp_path / "moved", SAMPLES, 1), tmp_path / "moved" / "audit"
    with start(config) as job:
        assert job.wait_until(lambda: newest_cursor(audit) >= 3), job.stderr
        asked = job.processes(WORKER)[0]
        before = newest_cursor(audit)
        asked.send_signal(signal.SIGTERM)
        assert job.wait_until(lambda: len(list(audit.glob("*.jsonl"))) == 4 and next_step_s(audit, 0)), job.stderr
        done = stop(job, audit, before + 5)
    steps = [line["cursor"] for line in audit_lines(audit)]
    assert sorted(steps) == sorted([*range(done), *range(done)]), "each of two workers did each step once: nothing lost"
    with start(config, "workers.count=1") as job:
        alone = stop(job, audit, done + 5)
    assert alone < SAMPLES // 2, "the run ended before its second worker came back"
    with start(config, "engine.kind=deepspeed", "engine.zero_stage=3") as job:
        assert job.wait() == 0, job.stderr

    found, expected = account_of(load_config(TrainConfig, config)), undisturbed(tmp_path / "undisturbed", SAMPLES, 1)
    assert found.runs == 1 and found.samples == expected.samples == {0: dict.fromkeys(range(SAMPLES), 1)}
    assert found.losses.keys() == expected.losses.keys()
    for step, (loss,) in expected.losses.items():
        # The other engine rounds otherwise, which grows from step to step.
        assert found.losses[step] == [pytest.approx(loss, rel=2e-6 if step <= alone else 1e-4)], step


def test_ctrl_c_saves_without_ray_too(tmp_path: Path) -> None:
    config, audit = write_problem(tmp_path, SAMPLES, 1), tmp_path / "audit"
    with start(config, "--in-process", "checkpoint.every_steps=1000") as job:
        assert job.wait_until(lambda: newest_cursor(audit) >= 3), job.stderr
        job.driver.send_signal(signal.SIGINT)
        assert job.wait() == 130, job.stderr
    newest = max(tmp_path.glob("train/*/checkpoints/*/commit.json"))
    assert json.loads(newest.read_text())["cursor"] == newest_cursor(audit) + 1


def stop(job: Job, audit: Path, cursor: int) -> int:
    """Terminate a job once it has come to a step; how many it has done, which its newest checkpoint holds."""
    assert job.wait_until(lambda: newest_cursor(audit) >= cursor, 150), job.stderr
    job.driver.send_signal(signal.SIGTERM)
    assert job.wait() == 143, job.stderr
    assert job.last_words == "terminated; the same command continues where it stopped"
    done = newest_cursor(audit) + 1
    newest = max(audit.parent.glob("train/*/checkpoints/*/commit.json"))
    assert json.loads(newest.read_text())["cursor"] == done
    return done
