"""What the HTTP side does with a request: admit it, send it to a replica, watch its answer, record it."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Protocol

from pipelines.serve.admission import Gate, KnownCosts
from pipelines.serve.auth import Key
from pipelines.serve.caption_protocol import CaptionRequest
from pipelines.serve.completions import Answer, Heading
from pipelines.serve.metrics import EndpointMetrics
from pipelines.serve.protocol import ChatRequest
from pipelines.serve.questions import (
    CaptionOrder,
    Delta,
    Event,
    Finished,
    ModelInfo,
    Question,
    Started,
    cost_keys,
    text_tokens,
)
from pipelines.serve.recorder import Recorder
from pipelines.serve.refusals import Refusal, unavailable
from pipelines.serve.replies import VideoCaption

_UNSEEN_ANSWER_TOKENS = 128


class Backend(Protocol):
    """The replicas of one model, wherever they are."""

    @property
    def info(self) -> ModelInfo | None:
        """None until a replica has told."""

    @property
    def num_replicas(self) -> int:
        """Replicas that answered when they were last asked."""

    @property
    def capacity_tokens(self) -> int:
        """Tokens that they take on together."""

    def ask(self, question: Question | CaptionOrder) -> AsyncGenerator[Event, None]:
        """The events of one replica; closing the iterator cancels the answer."""


class Service:
    """One HTTP process's view of the endpoint.

    Args:
        backends: by model name.
        metrics: where requests are counted.
        recorder: where some of them leave a trace.
    """

    def __init__(self, backends: Mapping[str, Backend], metrics: EndpointMetrics, recorder: Recorder):
        self.backends, self.metrics, self._recorder = backends, metrics, recorder
        self._gates = {name: Gate(0) for name in backends}
        self._costs = KnownCosts()

    def backend(self, model: str) -> Backend:
        """The replicas of a model.

        Raises:
            Refusal: 404, there is no such model.
        """
        if model in self.backends:
            return self.backends[model]
        names = ", ".join(self.backends)
        raise Refusal(404, f"there is no model {model!r}", f"use one of {names}", "model_not_found", "model")

    @contextlib.asynccontextmanager
    async def captioning(self, request: CaptionRequest) -> AsyncIterator[AsyncIterator[VideoCaption | Refusal]]:
        """Captions of a video that can be used, as its scenes end; leaving the block early cancels the rest.

        Raises:
            Refusal: there will be none.
        """
        backend = self.backend(request.model)
        status = 499
        try:
            info = _info(backend, request.model)
            if not info.captions:
                raise self._captions_nothing(request.model)
            # It is asked about scene after scene: a whole slot, all the time.
            with self._held(request.model, backend, info.max_length):
                async with contextlib.aclosing(backend.ask(CaptionOrder(request, info.max_length))) as events:
                    await _started(events)

                    async def captions() -> AsyncIterator[VideoCaption | Refusal]:
                        async for event in events:
                            assert isinstance(event, VideoCaption | Refusal), event
                            if isinstance(event, VideoCaption):
                                self.metrics.captions.labels(request.model).inc()
                            yield event
                        nonlocal status
                        status = 200

                    yield captions()
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            self._count_status(request.model, status)

    @contextlib.asynccontextmanager
    async def answering(
        self, request: ChatRequest, key: Key
    ) -> AsyncIterator[tuple[Heading, AsyncIterator[Delta | Finished | Refusal]]]:
        """An answer that has begun, and its events; leaving the block early cancels it.

        Raises:
            Refusal: there will be none.
        """
        backend = self.backend(request.model)
        started_s = time.monotonic()
        answer = Answer()
        status = 499
        try:
            info = _info(backend, request.model)
            question = Question(request, key.digest, self._cost(request, key, info))
            with self._held(request.model, backend, question.tokens):
                async with contextlib.aclosing(backend.ask(question)) as events:
                    await _started(events)
                    heading = Heading(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), request.model, info.digest[:16])
                    yield heading, self._watched(events, question, answer, started_s)
                    status = 200 if answer.finished else 499
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            self._count(request, answer, status, started_s)

    def _cost(self, request: ChatRequest, key: Key, info: ModelInfo) -> int:
        """Tokens that a request will hold, as far as is known beforehand."""
        media = cost_keys(request, key.digest)
        tokens = text_tokens(request) + (request.answer_tokens or _UNSEEN_ANSWER_TOKENS)
        tokens += sum(self._costs.get((request.model, *medium), info.max_length) for medium in media)
        return min(tokens, info.max_length)

    @contextlib.contextmanager
    def _held(self, model: str, backend: Backend, tokens: int) -> Iterator[None]:
        """The tokens, held at the model's gate.

        Raises:
            Refusal: 429, as many are held as the replicas take on.
        """
        gate, gauge = self._gates[model], self.metrics.ongoing_tokens.labels(model)
        gate.capacity_tokens = backend.capacity_tokens
        try:
            with gate.admit(tokens):
                gauge.set(gate.tokens)
                yield
        finally:
            gauge.set(gate.tokens)

    def _captions_nothing(self, model: str) -> Refusal:
        able = [name for name, one in self.backends.items() if one.info and one.info.captions]
        fix = f"use one of {', '.join(able)}" if able else "serve a VideoLLaMB"
        return Refusal(400, f"{model!r} does not caption scene by scene", fix, "unsupported_model", "model")

    async def _watched(
        self, events: AsyncIterator[Event], question: Question, answer: Answer, started_s: float
    ) -> AsyncIterator[Delta | Finished | Refusal]:
        model = question.request.model
        first = True
        async for event in events:
            if isinstance(event, Started):
                continue
            assert not isinstance(event, VideoCaption), "captions are another request's"
            if isinstance(event, Delta) and first:
                first = False
                self.metrics.first_token_seconds.labels(model).observe(time.monotonic() - started_s)
            if isinstance(event, Delta | Finished):
                answer.add(event)
            if isinstance(event, Finished):
                self._learn(question, event)
            yield event

    def _learn(self, question: Question, finished: Finished) -> None:
        """A request with one medium tells what that costs."""
        media = cost_keys(question.request, question.tenant)
        if len(media) == 1:
            self._costs.learn((question.request.model, *media[0]), finished.vendor.visual_tokens)

    def _count(self, request: ChatRequest, answer: Answer, status: int, started_s: float) -> None:
        model, took_s = request.model, time.monotonic() - started_s
        self._count_status(model, status)
        if answer.finished is None:
            return
        usage, vendor = answer.finished.usage, answer.finished.vendor
        self.metrics.seconds.labels(model).observe(took_s)
        self.metrics.tokens.labels(model, "visual").inc(vendor.visual_tokens)
        self.metrics.tokens.labels(model, "text").inc(usage.prompt_tokens - vendor.visual_tokens)
        self.metrics.tokens.labels(model, "answer").inc(usage.completion_tokens)
        if vendor.cache.prefix:
            self.metrics.prefix_hits.labels(model).inc()
        if random.random() < self._recorder.sample:
            self._recorder.record(request, answer, took_s)

    def _count_status(self, model: str, status: int) -> None:
        self.metrics.requests.labels(model, str(status)).inc()
        if status == 499:
            self.metrics.disconnects.labels(model).inc()


def _info(backend: Backend, model: str) -> ModelInfo:
    """What the model is, once a replica answers."""
    if not backend.num_replicas or backend.info is None:
        raise unavailable(model)
    return backend.info


async def _started(events: AsyncIterator[Event]) -> None:
    first = await anext(events, None)
    if isinstance(first, Refusal):
        raise first
    assert isinstance(first, Started), f"a replica's first event is Started or a Refusal, not {first!r}"
