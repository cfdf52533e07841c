"""An evaluation in processes of its own against an endpoint that counts, killed while it asks."""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.evaluate.answers import AnswerLog
from pipelines.evaluate.results import Results
from tests.faults.job import Job
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, by_checksum, text_of

COMMAND = (sys.executable, "-m", "jobs.evaluate")
# What Ray writes into the command line of its processes.
WORKER = "ray::Worker"
_REPLY_S = 0.05


@dataclass
class Account:
    """What happened to one run.

    Attributes:
        kills: who was killed after how many requests.
        exit_codes: of all commands that were given.
        asked: for each question, when requests for it came.
        answered: for each question, when its answer was written.
    """

    kills: list[tuple[str, int]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[str, float] = field(default_factory=dict)

    @property
    def repeated(self) -> int:
        """Requests beyond one per question: those whose replies a kill kept from being written."""
        return sum(len(times) - 1 for times in self.asked.values())

    @property
    def asked_after_answered(self) -> list[str]:
        """Questions that were asked although their answer was there."""
        return [text for text, times in self.asked.items() if max(times) > self.answered.get(text, 0.0)]


class CountingEndpoint(ScriptedEndpoint):
    """Replies by checksum after a while, and notes when each question came."""

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.asked: dict[str, list[float]] = defaultdict(list)

    def _reply(self, request: dict[str, Any]) -> Scripted:
        self.asked[text_of(request)].append(time.time())
        time.sleep(_REPLY_S)
        return by_checksum(request)


def words_of(folder: Path, data: Path, server: ScriptedEndpoint, workers: int = 2) -> list[str]:
    """The command's settings."""
    given = {"task": "nextqa", "data": data, "output": folder / "runs", "workdir": folder / "work", "model": "scripted"}
    given |= {"endpoint": server.url, "requests.concurrency": 2, "workers.count": workers, "workers.cpus": 0.5}
    return [f"{name}={value}" for name, value in given.items()]


def start(folder: Path, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Job:
    return Job(words, folder / "logs", environment, COMMAND)


def run_through_kills(
    folder: Path, words: Sequence[str], server: CountingEndpoint, victims: Sequence[str], questions: int, seed: int = 0
) -> Account:
    """Run a job to its end; kill "driver" or "worker" at random moments spread over its questions."""
    chance, account = random.Random(seed), Account(asked=server.asked)
    job = start(folder, words)
    try:
        for number, victim in enumerate(victims):
            share = (number + chance.uniform(0.2, 0.9)) / len(victims)
            wanted = max(1, int(questions * share))
            if not job.wait_until(lambda wanted=wanted: len(server.asked) >= wanted, 180):  # type: ignore[misc]
                break  # it was through before
            time.sleep(chance.uniform(0, 2 * _REPLY_S))
            if job.wait_until(lambda job=job, victim=victim: job.kill(victim, WORKER), 180):  # type: ignore[misc]
                account.kills.append((victim, len(server.requests)))
            if victim == "driver":
                account.exit_codes.append(job.wait())
                job = start(folder, words)
        account.exit_codes.append(job.wait())
    finally:
        job.end()
    account.answered = written(folder, server)
    return account


def written(folder: Path, server: CountingEndpoint) -> dict[str, float]:
    """When the answer to each question was written, by its text."""
    [log] = (folder / "runs" / "evaluate" / "answers").iterdir()
    times = {answer.row: answer.time_s for answer in AnswerLog(str(log)).answers.values()}
    rows = results_of(folder).rows.select(["row", "question"]).to_pylist()
    found = {}
    for row in rows:
        [text] = {text for text in server.asked if f": {row['question']}\n" in text}
        found[text] = times[row["row"]]
    return found


def results_of(folder: Path) -> Results:
    [run] = (folder / "runs" / "evaluate").glob("nextqa-*")
    return Results.load(str(run))
