"""Admission by tokens, and what a request is taken to cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipelines.serve.admission import Gate, KnownCosts
from pipelines.serve.auth import Key
from pipelines.serve.config import TrackingSettings
from pipelines.serve.metrics import EndpointMetrics
from pipelines.serve.protocol import ChatRequest
from pipelines.serve.questions import Delta, Event, Finished, ModelInfo, Question, Started, affinity_key
from pipelines.serve.recorder import Recorder
from pipelines.serve.refusals import Refusal, unavailable
from pipelines.serve.replies import CacheHits, Usage, Vendor
from pipelines.serve.service import Service
from tests.pipelines.serve.endpoint import ask, video_part

CONTEXT = 1000
KEY = Key("me", "digest")


def test_the_gate_holds_what_it_admits() -> None:
    gate = Gate(100)
    with gate.admit(60):
        with pytest.raises(Refusal) as refused, gate.admit(41):
            pass
        assert refused.value.status == 429
        assert int(refused.value.headers()["Retry-After"]) >= 1
        with gate.admit(40):
            assert (gate.tokens, gate.requests) == (100, 2)
    assert (gate.tokens, gate.requests) == (0, 0)
    with gate.admit(1000):  # alone, whatever it costs
        pass


def test_the_wait_follows_how_long_requests_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("pipelines.serve.admission.time.monotonic", lambda: now_s[0])
    gate = Gate(10)
    for _ in range(50):
        with gate.admit(10):
            now_s[0] += 30.0
    with gate.admit(10), pytest.raises(Refusal) as refused, gate.admit(10):
        pass
    assert int(refused.value.headers()["Retry-After"]) == 30


def test_known_costs_forget_the_oldest() -> None:
    costs = KnownCosts(most=2)
    for medium in ("a", "b", "a", "c"):
        costs.learn(medium, 7)
    assert [costs.get(medium, 99) for medium in ("a", "b", "c")] == [7, 99, 7]


class OneReplica:
    """A backend whose answers are given beforehand."""

    info = ModelInfo("0" * 32, "longvu", CONTEXT, 0)
    num_replicas = 1
    capacity_tokens = CONTEXT

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.closed = 0
        self.go_on = asyncio.Event()
        self.refusal: Refusal | None = None

    async def ask(self, question: Question) -> AsyncIterator[Event]:
        self.asked.append(question)
        try:
            if self.refusal:
                yield self.refusal
                return
            yield Started()
            await self.go_on.wait()
            yield Delta("red")
            cache = CacheHits(visual=False, prefix=False)
            vendor = Vendor(media=[], visual_tokens=50, regime="full", cache=cache, seconds={}, model_digest="")
            yield Finished("stop", Usage(prompt_tokens=60, completion_tokens=1, total_tokens=61), vendor)
        finally:
            self.closed += 1


def service(backend: OneReplica) -> Service:
    metrics = EndpointMetrics()
    return Service({"tiny": backend}, metrics, Recorder(TrackingSettings(), metrics.dropped_traces, {}))


def chat(url: str = "video:" + "0" * 64) -> ChatRequest:
    return ChatRequest(model="tiny", messages=ask(video_part(url), "What?"), max_tokens=10)


def test_an_unseen_video_counts_as_a_whole_slot_and_a_seen_one_as_what_it_cost() -> None:
    async def scenario() -> None:
        backend = OneReplica()
        served = service(backend)
        async with served.answering(chat(), KEY) as (_, events):
            with pytest.raises(Refusal) as refused:
                async with served.answering(chat(), KEY):
                    pass
            assert refused.value.status == 429
            assert len(backend.asked) == 1  # refused without asking a replica
            backend.go_on.set()
            assert [type(event) async for event in events] == [Delta, Finished]
        async with served.answering(chat(), KEY), served.answering(chat(), KEY):
            pass
        assert [question.tokens for question in backend.asked] == [CONTEXT, 63, 63]

    asyncio.run(scenario())


def test_leaving_early_closes_the_answer_and_returns_its_tokens() -> None:
    async def scenario() -> None:
        backend = OneReplica()
        served = service(backend)
        async with served.answering(chat(), KEY) as (heading, events):
            assert heading.model == "tiny"
            reading = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert backend.closed == 1
        async with served.answering(chat(), KEY):
            assert len(backend.asked) == 2

    asyncio.run(scenario())


def test_a_refusal_of_the_replica_is_raised_before_anything_is_sent() -> None:
    async def scenario() -> None:
        backend = OneReplica()
        backend.refusal = unavailable("tiny")
        with pytest.raises(Refusal) as refused:
            async with service(backend).answering(chat(), KEY):
                pass
        assert refused.value.status == 503 and "Retry-After" in refused.value.headers()
        backend.num_replicas = 0
        with pytest.raises(Refusal):
            async with service(backend).answering(chat(), KEY):
                pass
        assert len(backend.asked) == 1

    asyncio.run(scenario())


def test_questions_about_one_medium_share_a_key() -> None:
    def key(request: ChatRequest, tenant: str = "a") -> str | None:
        return affinity_key(Question(request, tenant, 0))

    assert key(chat("https://x/v.mp4")) == key(chat("https://x/v.mp4"), "b") != key(chat("https://x/w.mp4"))
    named = ChatRequest(model="tiny", messages=ask({"type": "video_url", "uuid": "u"}, "What?"))
    assert key(named) == key(named) != key(named, "b")  # a uuid is one tenant's own
    assert key(ChatRequest(model="tiny", messages=ask("Hello"))) is None
