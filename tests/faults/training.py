"""A training job in processes of its own, and ways to kill its driver or its workers while it learns."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.faults.job import Job
from tests.pipelines.mlflow_database import write_database

COMMAND = (sys.executable, "-m", "jobs.train")
# What Ray writes into the command line of its processes.
WORKER, CONTROLLER = "RayTrainWorker", "TrainController"
_COLOURS = ("red", "green", "blue", "yellow")


def write_problem(folder: Path, samples: int, epochs: int, **settings: Any) -> Path:
    """A YAML of a run over short texts; two samples to a step, a kill costs at most four steps."""
    rows = [
        {
            "id": number,
            "conversations": [
                {"from": "human", "value": f"What colour is number {number}?"},
                {"from": "gpt", "value": f"The colour is {_COLOURS[number % 4]}."},
            ],
        }
        for number in range(samples)
    ]
    write_database(folder)
    (folder / "rows.json").write_text(json.dumps(rows))
    values = {
        "output": str(folder),
        "workdir": str(folder),
        "data": {"annotations": str(folder / "rows.json")},
        "stage": {"learning_rate": 1e-3, "global_batch_samples": 2, "epochs": epochs, "max_sequence_length": 1024},
        "token_budget": 1024,
        "planned_ranks": 2,
        "workers": {"count": 2, "cpus": 0.75, "threads": 1, "restarts": 100},
        "checkpoint": {"every_steps": 4},
        "audit": str(folder / "audit"),
        **settings,
    }
    (folder / "train.yaml").write_text(json.dumps(values))  # JSON is YAML
    return folder / "train.yaml"


def start(config: Path, *words: str, environment: Mapping[str, str] | None = None) -> Job:
    """The job on Ray."""
    return Job(["--config", str(config), *words], config.parent / "jobs", environment, COMMAND)


def audit_lines(folder: Path) -> list[dict[str, Any]]:
    """Every step that any worker of any start has done."""
    lines = []
    for path in folder.glob("*.jsonl"):
        lines += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return lines


def newest_cursor(folder: Path) -> int:
    """The furthest that any start has come; -1 before the first step."""
    return max((line["cursor"] for line in audit_lines(folder)), default=-1)


@dataclass(frozen=True)
class Kill:
    """What a kill cost.

    Args:
        victim: "driver" or "worker".
        cursor: the furthest step done before it.
        lost: steps done that had to be done again.
        recovery_s: from the kill to the end of the next step.
    """

    victim: str
    cursor: int
    lost: int
    recovery_s: float


def train_through_kills(config: Path, victims: Sequence[str], last: int, seed: int = 0) -> tuple[list[Kill], list[int]]:
    """Run a job to its end; kill a victim at a random moment, again and again.

    Args:
        victims: what to kill, in turn.
        last: steps of the run; kills come at even distances before it.

    Returns:
        The kills, and the exit codes of the commands that were given.
    """
    chance, audit, kills = random.Random(seed), config.parent / "audit", []
    exit_codes: list[int] = []
    job = start(config)
    try:
        for number, victim in enumerate(victims):
            wait_for_step(job, audit, last * (number + 1) // (len(victims) + 1))
            time.sleep(chance.uniform(0, 0.15))
            killed_s = time.time()
            kill(job, victim, chance)
            if victim == "driver":
                exit_codes.append(job.wait())
                job = start(config)
            next_s = wait_for_start(job, audit, killed_s)
            lines = audit_lines(audit)
            done = max(line["cursor"] for line in lines if line["time_s"] < next_s)
            resumed = min(line["cursor"] for line in lines if line["time_s"] >= next_s)
            kills.append(Kill(victim, done, done + 1 - resumed, next_s - killed_s))
        exit_codes.append(job.wait())
    finally:
        job.end()
    return kills, exit_codes


def kill(job: Job, victim: str, chance: random.Random) -> None:
    """SIGKILL the driver, or one of the workers."""
    process = job.driver.pid if victim == "driver" else chance.choice(job.processes(WORKER)).pid
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(process).send_signal(signal.SIGKILL)


def wait_for_step(job: Job, audit: Path, cursor: int) -> None:
    assert job.wait_until(lambda: newest_cursor(audit) >= cursor, 150), job.stderr[-3000:]


def wait_for_start(job: Job, audit: Path, killed_s: float) -> float:
    """When the first step after a kill ended."""
    assert job.wait_until(lambda: next_step_s(audit, killed_s), 150), job.stderr[-3000:]
    return next_step_s(audit, killed_s)


def next_step_s(audit: Path, killed_s: float) -> float:
    """When the first step of a start that began after the kill ended; 0 while there is none."""
    firsts = []
    for path in audit.glob("*.jsonl"):
        lines = path.read_text().splitlines()
        if lines and lines[0].endswith("}"):
            firsts.append(json.loads(lines[0])["time_s"])
    return min((time_s for time_s in firsts if time_s > killed_s), default=0.0)
