"""Workers on Ray: dealt to as they become free, replaced when they die, and never a question asked twice for it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.errors import JobStopped, UserError
from pipelines.evaluate.config import WorkersConfig
from pipelines.evaluate.evaluation import Evaluation, evaluate
from pipelines.evaluate.preparation import prepare
from pipelines.evaluate.runner import placement
from tests.pipelines.evaluate.conftest import config_of, run_against
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, by_checksum, text_of
from tests.pipelines.evaluate.small_benchmark import write_benchmark

WORKER = "ray::Worker"
VIDEOS, QUESTIONS = 6, 4


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=2, object_store_memory=300 << 20, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("runner") / "data", VIDEOS, QUESTIONS, seconds=2)


def on_ray(server: ScriptedEndpoint, folder: Path, data: Path, *words: str, workers: int = 2) -> Evaluation:
    settings = {"endpoint": server.url, "model": "scripted-model", "requests.attempts": 2}
    settings |= {"workers.count": workers, "workers.cpus": 0.5}
    return evaluate(prepare(config_of(folder, data, *words, **settings), None))


def worker_pids() -> list[int]:
    """Processes of the actors of this test's Ray."""
    found = psutil.Process().children(recursive=True)
    return [process.pid for process in found if WORKER in " ".join(process.cmdline())]


def times_asked(server: ScriptedEndpoint) -> Counter[str]:
    return Counter(text_of(request) for request in server.requests)


def test_workers_share_the_videos_and_give_what_one_process_gives(tmp_path: Path, data: Path, ray_here: None) -> None:
    with ScriptedEndpoint() as server:
        done = on_ray(server, tmp_path / "ray", data)
        assert set(times_asked(server).values()) == {1} and len(server.requests) == VIDEOS * QUESTIONS
        assert on_ray(server, tmp_path / "ray", data).asked == 0
        here = run_against(server.url, tmp_path / "here", data)
    assert done.results.summary["headline"] == here.results.summary["headline"]
    columns = ["row", "status", "score", "reply", "media"]
    assert done.results.rows.select(columns).equals(here.results.rows.select(columns))


def test_workers_without_room_hold_up_nobody(tmp_path: Path, data: Path, ray_here: None) -> None:
    """Three want a CPU each and there are two: what is left of a cluster that has lost a node."""
    with ScriptedEndpoint() as server:
        done = on_ray(server, tmp_path, data, "workers.cpus=1", workers=3)
    assert done.asked == VIDEOS * QUESTIONS and not done.results.summary["counts"]["failed"]


def test_a_killed_worker_costs_only_what_was_on_its_way(tmp_path: Path, data: Path, ray_here: None) -> None:
    """Replies come one by one; the worker dies when some of a video's answers are written and others are not."""
    killed = threading.Event()
    answered: list[str] = []
    written: list[str] = []
    lock = threading.Lock()

    def script(request: dict[str, Any]) -> Scripted:
        with lock:
            if not killed.is_set() and len(answered) >= 2 * QUESTIONS + 1:
                logs = [log.read_text().splitlines() for log in (tmp_path / "runs").rglob("*.jsonl")]
                if sum(map(len, logs)) >= QUESTIONS:
                    written.extend(json.loads(line)["row"] for log in logs for line in log)
                    killed.set()
                    for pid in worker_pids():
                        os.kill(pid, signal.SIGKILL)
                    return Scripted(status=0)
            time.sleep(0.05)
            answered.append(text_of(request))
        return by_checksum(request)

    with ScriptedEndpoint(script) as server:
        done = on_ray(server, tmp_path, data, "requests.concurrency=1", workers=1)
        assert killed.is_set()
        asked = times_asked(server)
        undisturbed = run_against(server.url, tmp_path / "other", data)
    assert done.results.rows.select(["row", "score"]).equals(undisturbed.results.rows.select(["row", "score"]))
    # Only what was on its way is repeated: replies that nobody had written down.
    texts = {row["row"]: row["question"] for row in done.results.rows.select(["row", "question"]).to_pylist()}
    again = [text for text, times in asked.items() if times > 1]
    assert len(asked) == VIDEOS * QUESTIONS
    assert not [row for row in written for text in again if f": {texts[row]}\n" in text]


def test_a_video_that_kills_every_worker_fails_alone(tmp_path: Path, data: Path, ray_here: None) -> None:
    def deadly(request: dict[str, Any]) -> Scripted:
        if "video 3" in text_of(request):
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)
            return Scripted(status=0)
        return by_checksum(request)

    with ScriptedEndpoint(deadly) as server:
        done = on_ray(server, tmp_path, data, "workers.attempts=3", workers=1)
        counts = done.results.summary["counts"]
        assert (counts["scored"] + counts["unparsed"], counts["failed"]) == ((VIDEOS - 1) * QUESTIONS, QUESTIONS)
        assert set(done.results.summary["causes"]) == {"WorkerDied"}
        server.script = by_checksum
        assert on_ray(server, tmp_path, data).asked == QUESTIONS, "another run tries it again"


def test_an_endpoint_that_is_gone_stops_the_workers_too(tmp_path: Path, data: Path, ray_here: None) -> None:
    with ScriptedEndpoint(lambda _: Scripted("no such model", 404)) as server, pytest.raises(JobStopped, match="404"):
        on_ray(server, tmp_path, data)


def test_a_worker_for_each_gpu() -> None:
    assert placement(WorkersConfig(), 8, local_model=True).count == 8
    assert placement(WorkersConfig(), 0, local_model=True).count == 1
    assert placement(WorkersConfig(), 8, local_model=False).gpus == 0
    assert placement(WorkersConfig(gpus=2.0), 8, local_model=True).count == 4
    assert placement(WorkersConfig(count=3), 0, local_model=True).count == 3
    with pytest.raises(UserError, match="ask for fewer"):
        placement(WorkersConfig(count=9, gpus=1.0), 8, local_model=True)
