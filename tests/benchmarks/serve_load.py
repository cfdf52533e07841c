"""An endpoint that is asked four times as much as it can answer: does it refuse quickly and serve the rest well?

    python -m tests.benchmarks.serve_load [--seconds 60]

One replica of the tiny model that takes on so many requests at a time (--at-once). In the same run:

1. unloaded: one request after the other;
2. capacity: as many clients as are taken on, each with one request after the other;
3. overload: requests come at four times that rate, at random times, and nobody waits for anybody.

Every request is one of three questions about one video, with answers of a fixed length. A request is lost if it gets
neither an answer nor a refusal with Retry-After. Memory is the resident memory of all processes of Ray Serve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from longvu_model.presets import build_preset
from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import LiveEndpoint, ask, live_endpoint, long_answer, tiny_model, video_part

OVERLOAD = 4
ANSWER_TOKENS = 48
QUESTIONS = ("Which colour does the shape have?", "Which shape is it?", "When does it appear?")
MIB = 1 << 20


@dataclass
class Outcomes:
    """Seconds of the requests that were answered and refused; what else happened."""

    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Clients:
    """Requests to an endpoint.

    Args:
        video: its URL.
        options: of every request.
    """

    def __init__(self, endpoint: LiveEndpoint, session: aiohttp.ClientSession, video: str, options: dict[str, object]):
        self._url, self._session = f"{endpoint.url}/v1/chat/completions", session
        self._headers = {"Authorization": f"Bearer {endpoint.key}"}
        self._bodies = [{**options, "messages": ask(video_part(video), question)} for question in QUESTIONS]

    async def ask(self, outcomes: Outcomes) -> None:
        started_s = time.perf_counter()
        try:
            body = random.choice(self._bodies)
            async with self._session.post(self._url, json=body, headers=self._headers) as reply:
                text = await reply.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            outcomes.lost.append(repr(error))
            return
        took_s = time.perf_counter() - started_s
        if reply.status == 200:
            outcomes.answered_s.append(took_s)
        elif reply.status == 429 and reply.headers.get("Retry-After"):
            outcomes.refused_s.append(took_s)
        else:
            outcomes.lost.append(f"{reply.status} {text[:200]}")

    async def in_turn(self, seconds: float, outcomes: Outcomes) -> None:
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            await self.ask(outcomes)

    async def at_rate(self, per_s: float, seconds: float, outcomes: Outcomes) -> None:
        """Poisson arrivals."""
        begin_s = time.perf_counter()
        due_s, running = 0.0, []
        while (due_s := due_s + random.expovariate(per_s)) < seconds:
            await asyncio.sleep(max(0.0, begin_s + due_s - time.perf_counter()))
            running.append(asyncio.create_task(self.ask(outcomes)))
        await asyncio.gather(*running)


def quantile(values: Sequence[float], share: float) -> float:
    """NaN of no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def http_cpu_s(endpoint: LiveEndpoint) -> float:
    """CPU time so far of the proxy and the HTTP side."""
    found = [*endpoint.job.processes("ServeReplica:longvu:Endpoint"), *endpoint.job.processes("ProxyActor")]
    return sum(sum(process.cpu_times()[:2]) for process in found)


def resident_bytes(endpoint: LiveEndpoint) -> int:
    """Of the proxy, the HTTP side and the replicas."""
    found = [*endpoint.job.processes("ServeReplica"), *endpoint.job.processes("ProxyActor")]
    return sum(psutil.Process(process.pid).memory_info().rss for process in found)


async def measure(endpoint: LiveEndpoint, video: str, at_once: int, seconds: float) -> bool:
    options = {**long_answer(endpoint), "max_tokens": ANSWER_TOKENS}
    options.pop("messages")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        clients = Clients(endpoint, session, video, options)
        for _ in range(5):
            await clients.ask(Outcomes())
        unloaded, full, over = Outcomes(), Outcomes(), Outcomes()
        await clients.in_turn(15.0, unloaded)
        await asyncio.gather(*(clients.in_turn(15.0, full) for _ in range(at_once)))
        capacity = len(full.answered_s) / 15.0
        await clients.at_rate(OVERLOAD * capacity, 5.0, Outcomes())  # so that memory is what overload needs
        before, cpu_s = resident_bytes(endpoint), http_cpu_s(endpoint)
        await clients.at_rate(OVERLOAD * capacity, seconds, over)
        grown, cpu_s = resident_bytes(endpoint) - before, http_cpu_s(endpoint) - cpu_s
    alone_s, accepted_s = quantile(unloaded.answered_s, 0.99), quantile(over.answered_s, 0.99)
    refused_s = quantile(over.refused_s, 0.99)
    print(f"unloaded      p50 {quantile(unloaded.answered_s, 0.5):.3f} s, p99 {alone_s:.3f} s")
    print(
        f"capacity      {capacity:.1f} requests/s with {at_once} at a time, p99 {quantile(full.answered_s, 0.99):.3f} s"
    )
    ends = f"{len(over.answered_s)} answered, {len(over.refused_s)} refused, {len(over.lost)} lost (floor 0)"
    print(f"overload      {OVERLOAD * capacity:.1f} requests/s for {seconds:g} s: {ends}")
    print(
        f"refusals      p50 {1e3 * quantile(over.refused_s, 0.5):.0f} ms, p99 {1e3 * refused_s:.0f} ms (floor 100 ms)"
    )
    asked = len(over.answered_s) + len(over.refused_s)
    print(f"HTTP side     {1e3 * cpu_s / max(1, asked):.1f} ms of CPU time per request, refused or answered")
    print(f"accepted      p99 {accepted_s:.3f} s, {accepted_s / alone_s:.2f} times unloaded (floor 2)")
    print(f"throughput    {len(over.answered_s) / seconds / capacity:.2f} of capacity under overload")
    print(f"memory        {grown / MIB:+.1f} MiB of {before / MIB:.0f} MiB during overload")
    for text in over.lost[:5]:
        print(f"lost: {text}", file=sys.stderr)
    return not over.lost


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (default 60)")
    parser.add_argument("--at-once", type=int, default=2, help="requests that the replica takes on (default 2)")
    options = parser.parse_args(argv)
    random.seed(0)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny_model(build_preset("tiny", folder / "models" / "tiny"), slots=options.at_once)
        clip = write_video(folder / "clip.mp4", [12, 8], seed=5)
        with live_endpoint(folder / "cost", models=[model], endpoint={"num_cpus": 0.1}) as endpoint:
            tokens = cost(endpoint, clip)
        model["max_ongoing_tokens"] = tokens * options.at_once
        with live_endpoint(folder / "serving", models=[model], endpoint={"num_cpus": 0.1}) as endpoint:
            video = f"video:{endpoint.upload(clip)['id']}"
            return 0 if asyncio.run(measure(endpoint, video, options.at_once, options.seconds)) else 1


def cost(endpoint: LiveEndpoint, clip: Path) -> int:
    """Tokens that one of the requests is admitted for, once its video is known, with room for the longest question."""
    message = ask(video_part(f"video:{endpoint.upload(clip)['id']}"), QUESTIONS[0])
    reply = endpoint.client().chat.completions.create(model="tiny", messages=message, max_tokens=ANSWER_TOKENS)
    seen = json.loads(reply.model_dump_json())["longvu"]["visual_tokens"]
    return int(seen) + ANSWER_TOKENS + max(map(len, QUESTIONS)) // 2 + 1


if __name__ == "__main__":
    sys.exit(main())
