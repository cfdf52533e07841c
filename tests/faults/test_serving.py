"""An endpoint of two replicas: clients that leave, a replica that is killed, an end under load; and on clusters, an
update under load, and replicas that come and go with it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.served_cluster import served_cluster
from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import (
    LiveEndpoint,
    ask,
    live_endpoint,
    long_answer,
    tiny_model,
    video_part,
    wait_for,
)

MODEL_PROCESS = "ServeReplica:longvu:Model"
HELLO: Any = ask("Hello")
# More tokens than can be said before anybody leaves.
LONG = 900
RETRYABLE = (429, 503)


@pytest.fixture(scope="module")
def endpoint(faults_workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    model = tiny_model(faults_workdir / "models" / "tiny", min_replicas=2, max_replicas=2)
    with live_endpoint(tmp_path_factory.mktemp("serving"), models=[model], endpoint={"num_cpus": 0.1}) as live:
        wait_for(lambda: replicas(live) == 2)
        yield live


def replicas(endpoint: LiveEndpoint) -> int:
    return int(json.loads(endpoint.get("/health")[2])["models"]["tiny"]["replicas"])


def test_one_video_is_always_looked_at_by_the_same_replica(endpoint: LiveEndpoint, tmp_path: Path) -> None:
    videos = [endpoint.upload(write_video(tmp_path / f"{n}.mp4", [2, 2], seed=n))["id"] for n in range(4)]
    sources: Counter[tuple[str, str]] = Counter()
    for _ in range(3):
        for video in videos:
            messages = ask(video_part(f"video:{video}"), "What?")
            reply = endpoint.client().chat.completions.create(model="tiny", messages=messages, max_tokens=2)
            sources[video, reply.longvu["media"][0]["source"]] += 1  # type: ignore[attr-defined]
    assert sources == Counter({(video, "decoded"): 1 for video in videos} | {(video, "cache"): 2 for video in videos})


def test_a_client_that_leaves_frees_its_slot(endpoint: LiveEndpoint) -> None:
    before = endpoint.metric("longvu_cancelled_total")
    request = long_answer(endpoint)
    stream = endpoint.client().chat.completions.create(**request, max_tokens=LONG, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: endpoint.metric("longvu_cancelled_total") == before + 1)
    wait_for(lambda: not endpoint.metric("longvu_active_slots"))
    # And one that waits for the whole answer.
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    body = json.dumps({**request, "max_tokens": LONG})
    headers = {"Authorization": f"Bearer {endpoint.key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    wait_for(lambda: endpoint.metric("longvu_active_slots"))
    connection.close()
    wait_for(lambda: endpoint.metric("longvu_cancelled_total") == before + 2)
    wait_for(lambda: not endpoint.metric("longvu_ongoing_tokens"))
    wait_for(lambda: not endpoint.metric("longvu_active_slots") and not endpoint.metric("longvu_held_tokens"))


def test_every_request_is_answered_when_a_replica_is_killed(endpoint: LiveEndpoint) -> None:
    outcomes: Counter[str] = Counter()
    with asking(endpoint.url, endpoint.key, outcomes, clients=4, streamed=True):
        wait_for(lambda: outcomes["answered"] >= 8)
        assert endpoint.job.kill("replica", MODEL_PROCESS)
        answered = outcomes["answered"]
        wait_for(lambda: outcomes["answered"] >= answered + 8)
    assert set(outcomes) <= {"answered", "retryable"}, outcomes
    wait_for(lambda: replicas(endpoint) == 2)


def test_running_answers_end_when_the_endpoint_is_told_to(endpoint: LiveEndpoint) -> None:
    request = long_answer(endpoint)
    stream = endpoint.client().chat.completions.create(**request, max_tokens=LONG, stream=True)
    chunks = iter(stream)
    next(chunks)
    endpoint.job.driver.terminate()
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert ends[-1] in ("length", "stop")
    assert endpoint.job.wait() == 0


@pytest.mark.slow
def test_an_update_refuses_nobody(faults_workdir: Path, tmp_path: Path) -> None:
    """`serve deploy` of a changed file while requests come in: the new settings hold, and all were answered."""
    with served_cluster(tmp_path) as cluster:
        endpoint = cluster.endpoint

        def deploy(answer_tokens: int) -> None:
            model = tiny_model(faults_workdir / "models" / "tiny", max_tokens_default=answer_tokens)
            cluster.deploy(models=[model], endpoint={"num_cpus": 0.1})

        def said() -> int | None:
            return one_request(endpoint.url, endpoint.key, streamed=False).tokens

        deploy(5)
        wait_for(lambda: said() == 5)
        outcomes: Counter[str] = Counter()
        with asking(endpoint.url, endpoint.key, outcomes, clients=2, streamed=False):
            deploy(3)
            wait_for(lambda: said() == 3)
        assert set(outcomes) == {"answered"}, outcomes


@pytest.mark.slow
def test_replicas_follow_the_load_and_videos_keep_theirs(faults_workdir: Path, tmp_path: Path) -> None:
    """Two nodes with room for one replica each: 1 -> 2 -> 1. However many there are, a video is watched by one."""
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1.0, "num_cpus": 1.2}
    model = tiny_model(faults_workdir / "models" / "tiny", upscale_delay_s=1.0, downscale_delay_s=2.0, **scaling)
    with served_cluster(tmp_path, nodes=2) as cluster:
        endpoint = cluster.endpoint
        cluster.deploy(models=[model], endpoint={"num_cpus": 0.1})
        wait_for(lambda: one_request(endpoint.url, endpoint.key, streamed=False).name == "answered")
        videos = [endpoint.upload(write_video(tmp_path / f"{n}.mp4", [1, 1], seed=n))["id"] for n in range(10)]
        assert sources(endpoint, videos) == Counter(decoded=len(videos))
        outcomes: Counter[str] = Counter()
        with asking(endpoint.url, endpoint.key, outcomes, clients=6, streamed=True):
            wait_for(lambda: replicas(endpoint) == 2)
            assert [len(node) for node in cluster.processes(MODEL_PROCESS)] == [1, 1]
            moved = sources(endpoint, videos)
            # Those that the new replica has taken over; the others stay where they were.
            assert 0 < moved["decoded"] < len(videos)
            assert sources(endpoint, videos) == Counter(cache=len(videos))
        wait_for(lambda: replicas(endpoint) == 1)
        wait_for(lambda: sum(len(node) for node in cluster.processes(MODEL_PROCESS)) == 1)
        sources(endpoint, videos)
        assert sources(endpoint, videos) == Counter(cache=len(videos))
        assert set(outcomes) == {"answered"}, outcomes


def sources(endpoint: LiveEndpoint, videos: list[str]) -> Counter[str]:
    """Where the features of each video came from, asked about once more."""
    found: Counter[str] = Counter()
    for video in videos:
        messages = ask(video_part(f"video:{video}"), "What?")
        client = endpoint.client(max_retries=20)
        reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
        found[reply.longvu["media"][0]["source"]] += 1  # type: ignore[attr-defined]
    return found


class Outcome:
    """What became of a request: answered, retryable, or what should not be; and the answer's tokens."""

    def __init__(self, name: str, tokens: int | None = None):
        self.name, self.tokens = name, tokens


def one_request(url: str, key: str, *, streamed: bool) -> Outcome:
    """Ask once, without the client library's own second tries."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    request = {"model": "tiny", "messages": HELLO, "stream": streamed, **({"max_tokens": 40} if streamed else {})}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        return Outcome(f"no answer: {error!r}")
    finally:
        connection.close()
    if reply.status in RETRYABLE and reply.getheader("Retry-After"):
        return Outcome("retryable")
    if reply.status != 200:
        return Outcome(f"{reply.status}: {body[:300]!r}")
    if not streamed:
        return Outcome("answered", json.loads(body)["usage"]["completion_tokens"])
    if body.endswith(b"data: [DONE]\n\n"):
        return Outcome("answered")
    last = json.loads(body.rstrip().rpartition(b"data: ")[2])
    return Outcome("retryable" if last.get("error", {}).get("code") == "unavailable" else f"broken off: {last}")


@contextlib.contextmanager
def asking(url: str, key: str, outcomes: Counter[str], clients: int, streamed: bool) -> Iterator[None]:
    """Clients that ask one request after the other; how each ended is counted when the block ends at the latest."""
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            name = one_request(url, key, streamed=streamed).name
            outcomes[name] += 1
            if name == "retryable":
                time.sleep(0.2)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
