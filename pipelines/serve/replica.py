"""A model replica: one loaded checkpoint, its engine and its eyes. Ray Serve runs it; it knows nothing of Ray.

An answer is a stream of lists of events (:mod:`.questions`): what came while the last list was on its way travels
together, so that a slow network costs no step of the engine. Closing the stream cancels the generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from pipelines import engine as engines
from pipelines.engine import Completion, Engine, EngineConfig, EngineFull, Generation, SamplingParams, VisualCache
from pipelines.serve.admission import Gate
from pipelines.serve.captioner import Captioner, can_caption
from pipelines.serve.config import ModelSettings, ServeConfig
from pipelines.serve.guard import MediaRefused
from pipelines.serve.media import MediaGuard
from pipelines.serve.metrics import ReplicaMetrics, collected
from pipelines.serve.protocol import ChatRequest, TextPart, VideoPart
from pipelines.serve.questions import (
    CaptionOrder,
    Delta,
    Event,
    Finished,
    ModelInfo,
    Question,
    ReplicaStatus,
    Started,
)
from pipelines.serve.refusals import Refusal, busy, media_refused
from pipelines.serve.replies import CacheHits, PromptDetails, SeenMedium, TokenLogprob, Usage, Vendor
from pipelines.serve.sight import Seen, Sight
from pipelines.serve.videos import open_uploads
from pipelines.store import FeatureStore
from pipelines.video_models import Prompt, PromptTooLong, VideoModel, load_video_model


class ModelReplica:
    """Answers questions with one model.

    Args:
        config: of the endpoint.
        name: which of its models; ``path`` is a checkpoint folder by now.

    Raises:
        UserError: the checkpoint cannot be loaded.
    """

    def __init__(self, config: ServeConfig, name: str):
        self.settings = next(model for model in config.models if model.name == name)
        self.model = _load(self.settings)
        self.engine = Engine(self.model, _engine_config(self.settings))
        self.gate = Gate(self.settings.max_ongoing_tokens or self.settings.slots * self.max_length)
        self._cache = VisualCache(self.settings.visual_cache_bytes, self.settings.spill_bytes)
        self.metrics = ReplicaMetrics(name, self._gauges())
        self._sight = Sight(
            self.model,
            self._cache,
            MediaGuard(config.media, config.workdir / "fetched"),
            open_uploads(config),
            FeatureStore.open(self.settings.store) if self.settings.store else None,
            self.metrics,
            self.settings.watchers,
            config.url_ttl_s,
        )
        self._captioner: Captioner | None = None
        if can_caption(self.model):
            self._captioner = Captioner(self.model, self.engine, self._sight, config.media, self.settings.captions)
        self._info = ModelInfo(
            self.model.digest, self.model.family, self.max_length, int(time.time()), self._captioner is not None
        )

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together."""
        return min(self.settings.max_length or self.model.max_length, self.model.max_length)

    async def answer(self, question: Question) -> AsyncGenerator[list[Event], None]:
        """The events of an answer; a refusal is the only one of its stream, or its last one."""
        try:
            with self.gate.admit(question.tokens):
                async with contextlib.aclosing(self._answer(question)) as answer:
                    async for events in answer:
                        yield events
        except _REFUSED as error:
            yield [_as_refusal(error, "messages")]

    async def captions(self, order: CaptionOrder) -> AsyncGenerator[list[Event], None]:
        """The captions of a video, after Started; a refusal is the only event of its stream, or its last one."""
        assert self._captioner is not None, "the HTTP side knows which models caption"
        try:
            with self.gate.admit(order.tokens):
                async with contextlib.aclosing(self._captioner.captions(order.request)) as events:
                    async for event in events:
                        yield [event]
        except _REFUSED as error:
            yield [_as_refusal(error, "question")]

    def status(self, process: str) -> ReplicaStatus:
        """What the HTTP side wants to know about once a second."""
        return ReplicaStatus(
            self._info, self.gate.capacity_tokens, self.gate.requests, collected(self.metrics.registry, process)
        )

    def check_health(self) -> None:
        """Raise if the engine has stopped."""
        if (why := self.engine.load().failed) is not None:
            raise RuntimeError(why)

    def close(self) -> None:
        """Stop; what is unanswered is cancelled."""
        self._sight.close()
        if self._captioner is not None:
            self._captioner.close()
        self.engine.close()

    async def _answer(self, question: Question) -> AsyncGenerator[list[Event], None]:
        request, begun_s = question.request, time.monotonic()
        sampling = request.sampling()
        seen = await asyncio.gather(
            *(self._sight.see(part, param, sampling, question.tenant) for param, part in request.located_parts())
        )
        seen_s = time.monotonic()
        prompt = await asyncio.to_thread(self._prompt, request, seen)
        prompted_s = time.monotonic()
        arrivals: asyncio.Queue[engines.Delta | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(delta: engines.Delta | None) -> None:
            loop.call_soon_threadsafe(arrivals.put_nowait, delta)

        generation = self._submit(prompt, request, put)
        generation.future.add_done_callback(lambda _: put(None))
        try:
            yield [Started()]
            if not request.stream:  # nobody reads a part of it: one message instead of one for each token
                await asyncio.wait([asyncio.wrap_future(generation.future)])
            ended = False
            while not ended:
                arrived = [await arrivals.get()]
                while not arrivals.empty():
                    arrived.append(arrivals.get_nowait())
                ended = arrived[-1] is None
                yield [self._delta(delta, request.top_logprobs or 0) for delta in arrived if delta is not None]
            seconds = {"media": seen_s - begun_s, **_sums(seen), "prompt": prompted_s - seen_s}
            yield [self._finished(generation, prompt, seen, seconds, prompted_s - begun_s)]
        finally:
            if not generation.future.done():
                generation.future.add_done_callback(self._count_cancelled)
                generation.cancel()

    def _prompt(self, request: ChatRequest, seen: Sequence[Seen]) -> Prompt:
        prompt = self.model.prompt(_messages(request), [one.media for one in seen])
        if len(prompt) + (request.answer_tokens or 1) > self.max_length:
            raise PromptTooLong(
                f"the prompt takes {len(prompt)} tokens and the answer up to {request.answer_tokens or 1}, "
                f"more than the {self.max_length} of a slot"
            )
        return prompt

    def _submit(self, prompt: Prompt, request: ChatRequest, on_delta: Any) -> Generation:
        room = self.max_length - len(prompt)
        sampling = SamplingParams(
            max_tokens=request.answer_tokens or min(self.settings.max_tokens_default, room),
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            stop=request.stops,
            # The engine reports a token together with at least the likeliest one.
            logprobs=max(1, request.top_logprobs or 0) if request.logprobs else 0,
        )
        return self.engine.submit(prompt, sampling, on_delta)

    def _delta(self, delta: engines.Delta, num_top: int) -> Delta:
        return Delta(delta.text, [self._logprob(one, num_top) for one in delta.logprobs])

    def _logprob(self, one: engines.TokenLogprob, num_top: int) -> TokenLogprob:
        top = [self._token(token_id, logprob) for token_id, logprob in one.top[:num_top]]
        return self._token(one.token_id, one.logprob).model_copy(update={"top_logprobs": top})

    def _token(self, token_id: int, logprob: float) -> TokenLogprob:
        text = str(self.model.tokenizer.decode([token_id]))
        return TokenLogprob(token=text, logprob=logprob, bytes=list(text.encode("utf-8", "replace")))

    def _finished(
        self,
        generation: Generation,
        prompt: Prompt,
        seen: Sequence[Seen],
        seconds: dict[str, float],
        before_s: float,
    ) -> Finished:
        completion = generation.result(0)
        answer_tokens, cached = completion.completion_tokens, completion.cached_tokens
        engine_s = completion.seconds
        seconds = seconds | {
            "queued": engine_s["queued"],
            "first_token": before_s + engine_s["first_token"],
            "answer": engine_s["total"],
        }
        usage = Usage(
            prompt_tokens=len(prompt),
            completion_tokens=answer_tokens,
            total_tokens=len(prompt) + answer_tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )
        media = [
            SeenMedium(
                kind=one.media.kind,
                kept_times_s=times_s,
                num_sampled=one.media.num_sampled,
                damage=one.media.damage,
                source=one.source,
            )
            for one, times_s in zip(seen, prompt.kept_times_s, strict=True)
        ]
        vendor = Vendor(
            media=media,
            visual_tokens=prompt.visual_tokens,
            regime=prompt.regime,
            cache=CacheHits(visual=all(one.source != "decoded" for one in seen), prefix=cached > 0),
            seconds={stage: round(value, 6) for stage, value in seconds.items()},
            model_digest=self.model.digest,
        )
        assert completion.finish_reason != "cancelled", "a cancelled generation has no reader"
        return Finished(completion.finish_reason, usage, vendor)

    def _count_cancelled(self, future: Future[Completion]) -> None:
        self.metrics.cancelled.inc()
        if future.exception() is None:
            self.metrics.cancelled_tokens.inc(future.result().completion_tokens)

    def _gauges(self) -> list[Any]:
        def load(name: str) -> Any:
            return lambda: float(getattr(self.engine.load(), name))

        return [
            ("longvu_active_slots", "Requests being decoded", load("active")),
            ("longvu_waiting_requests", "Requests waiting for a slot", load("waiting")),
            ("longvu_waiting_tokens", "Their prompts' tokens", load("waiting_tokens")),
            ("longvu_tokens_per_s", "Tokens decoded per second, lately", load("tokens_per_s")),
            ("longvu_held_tokens", "Tokens that admitted requests hold", lambda: float(self.gate.tokens)),
            ("longvu_visual_cache_bytes", "Encoded media in memory", lambda: float(self._cache.stats.held_bytes)),
            ("longvu_resident_bytes", "Memory of the process", resident_bytes),
        ]


def resident_bytes() -> float:
    """Physical memory of this process."""
    return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def _load(settings: ModelSettings) -> VideoModel:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model = load_video_model(settings.path, settings.device, dtype, settings.quantization)
    model.name = settings.name
    return model


def _engine_config(settings: ModelSettings) -> EngineConfig:
    return EngineConfig(
        slots=settings.slots,
        max_length=settings.max_length,
        prefill_chunk=settings.prefill_chunk,
        prefix_cache_bytes=settings.prefix_cache_bytes,
    )


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The conversation as processors of the transformers library take it; media without their source."""
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        content = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
        messages.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    return messages


def _part(part: Any) -> dict[str, str]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "video" if isinstance(part, VideoPart) else "image"}


_REFUSED = (Refusal, MediaRefused, PromptTooLong, EngineFull)


def _as_refusal(error: BaseException, text_param: str) -> Refusal:
    match error:
        case Refusal():
            return error
        case MediaRefused():
            return media_refused(error)
        case EngineFull():
            return busy(error.retry_after_s, f"{error.waiting_tokens} of {error.limit} tokens are waiting")
    fix = "shorten the text or max_tokens, or show fewer media"
    return Refusal(400, str(error), fix, "context_length_exceeded", text_param)


def _sums(seen: Sequence[Seen]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for one in seen:
        for stage, value in one.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    return seconds
