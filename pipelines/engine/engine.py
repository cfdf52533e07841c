"""One thread that answers many prompts at once.

A turn of the thread: give free slots to whoever waits longest; take in a chunk of the oldest unfinished prompt (short
ones together up to a chunk); decode one token for every answer that has begun. Prompts whose beginning was taken in
before, the same video under the same text budget, start from a copy of its keys and values.

The caller makes the prompts (:meth:`pipelines.video_models.VideoModel.prompt`), in threads of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipelines.engine.generation import Delta, EngineFailed, EngineFull, Generation
from pipelines.engine.kv_cache import KeyValues
from pipelines.engine.requests import Answering, Request, Scoring
from pipelines.engine.runner import Runner
from pipelines.engine.sampling import choose
from pipelines.engine.settings import EngineConfig, SamplingParams
from pipelines.errors import UserError
from pipelines.video_models.base import Prompt, PromptTooLong, VideoModel
from pipelines.video_models.lru import ByteLRU

_RATE_WINDOW_S = 10.0
_LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class Load:
    """How busy an engine is.

    Attributes:
        active: requests in slots.
        slots: of them there are.
        waiting: requests without a slot yet.
        waiting_tokens: positions that those may take.
        tokens_per_s: answer tokens per second, over the last ten seconds.
        prefix_bytes: held keys and values of beginnings, on the device and in host memory.
        failed: why the engine takes no more requests; None while it does.
    """

    active: int
    slots: int
    waiting: int
    waiting_tokens: int
    tokens_per_s: float
    prefix_bytes: tuple[int, int]
    failed: str | None = None


class Engine:
    """Answers prompts of one model.

    Args:
        model: loaded; the engine's thread alone runs its decoder from now on.
        config: see :class:`EngineConfig`.

    Raises:
        UserError: ``max_length`` exceeds what the model can take.
    """

    def __init__(self, model: VideoModel, config: EngineConfig | None = None) -> None:
        self.model, self.config = model, config or EngineConfig()
        self.max_length = self.config.max_length or model.max_length
        if self.max_length > model.max_length:
            raise UserError(f"max_length={self.max_length}: {model.name} takes at most {model.max_length} positions")
        slots = self.config.slots
        self._most_waiting = self.config.max_waiting_tokens or 2 * slots * self.max_length
        with torch.inference_mode():
            self._runner = Runner(model, slots, self.max_length, self.config.least_rows, self.config.cuda_graphs)
        self._prefixes: ByteLRU[KeyValues] = ByteLRU(
            self.config.prefix_cache_bytes,
            lambda prefix: prefix.tensor.nbytes,
            spill_bytes=self.config.prefix_spill_bytes,
            demote=lambda prefix: prefix.to("cpu"),
            promote=lambda prefix: prefix.to(model.device),
        )
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._active: dict[int, Request] = {}
        self._ended: EngineFailed | None = None
        self._closing = False
        self._tokens, self._work = _Rate(), _Rate()
        self._thread = threading.Thread(target=self._run, name=f"engine-{model.name}", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Generation:
        """Ask for an answer; returns at once.

        Args:
            prompt: of this engine's model.
            on_delta: called from the engine's thread with every delta; must return quickly.

        Raises:
            EngineFull: too much is waiting.
            EngineFailed: the engine has ended.
            PromptTooLong: the prompt does not fit a slot.
        """
        generation = Generation(on_delta)
        self._enqueue(Answering(prompt, sampling or SamplingParams(), generation, self.model))
        return generation

    def score(self, prompt: Prompt, continuations: Sequence[str], timeout: float | None = None) -> list[float]:
        """How likely each text is to follow the prompt: sums of the log probabilities of its tokens.

        The prompt is taken in once for all of them.

        Args:
            continuations: not empty; tokenised by themselves, without special tokens.
            timeout: seconds to wait.

        Raises:
            UserError: a continuation without tokens, or none at all.
            EngineFull, EngineFailed, PromptTooLong: as :meth:`submit`.
            TimeoutError: it took longer.
        """
        ids = [self.model.tokenizer(text, add_special_tokens=False).input_ids for text in continuations]
        if not ids or not all(ids):
            raise UserError(f"continuations={list(continuations)!r}: give texts of at least one token each")
        request = Scoring(prompt, ids)
        self._enqueue(request)
        try:
            return request.future.result(timeout)
        except TimeoutError:
            request.future.cancel()
            raise

    def load(self) -> Load:
        """How busy the engine is now."""
        with self._changed:
            return Load(
                len(self._active),
                self.config.slots,
                len(self._waiting),
                sum(request.num_tokens for request in self._waiting),
                self._tokens.per_s(),
                self._prefixes.held_bytes,
                None if self._ended is None else str(self._ended),
            )

    def close(self) -> None:
        """End the thread; what is not answered yet fails. Harmless when repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _enqueue(self, request: Request) -> None:
        needed = len(request.prompt) + (request.room if isinstance(request, Scoring) else 0)
        if needed > self.max_length:
            raise PromptTooLong(
                f"{needed} positions, {request.prompt.visual_tokens} of them of media, do not fit the "
                f"{self.max_length} of a slot"
            )
        with self._changed:
            if self._ended is not None:
                raise EngineFailed(str(self._ended)) from self._ended.__cause__
            waiting = sum(other.num_tokens for other in self._waiting)
            if self._waiting and waiting + request.num_tokens > self._most_waiting:
                retry_s = min(max(waiting / max(self._work.per_s(), 1.0), 1.0), _LONGEST_RETRY_S)
                raise EngineFull(waiting, self._most_waiting, retry_s)
            self._waiting.append(request)
            self._changed.notify_all()

    # Everything below runs in the engine's thread.

    @torch.inference_mode()
    def _run(self) -> None:
        cause: BaseException | None = None
        try:
            while self._next_turn():
                self._take_in()
                self._decode()
        except BaseException as error:
            cause = error
        ended = EngineFailed("the engine was closed" if cause is None else f"the engine failed: {cause!r}")
        ended.__cause__ = cause
        with self._changed:
            self._ended = ended
            left = [*self._active.values(), *self._waiting]
            self._active.clear()
            self._waiting.clear()
        for request in left:
            request.fail(ended)

    def _next_turn(self) -> bool:
        """Wait for something to do, and deal out the slots; False when the engine is to end."""
        with self._changed:
            while not (self._closing or self._active or self._waiting):
                self._changed.wait()
            if self._closing:
                return False
            gone = {request for request in (*self._active.values(), *self._waiting) if request.cancelled}
            for request in gone:
                request.cancel()
            gone |= {request for request in self._active.values() if request.finished}
            self._active = {slot: request for slot, request in self._active.items() if request not in gone}
            self._waiting = deque(request for request in self._waiting if request not in gone)
            free = (slot for slot in range(self.config.slots) if slot not in self._active)
            for slot in list(free)[: len(self._waiting)]:
                request = self._waiting.popleft()
                request.slot, request.admitted_s = slot, time.perf_counter()
                self._active[slot] = request
        return True

    def _take_in(self) -> None:
        """Chunks of prompts, the oldest request first, and texts to be weighed, up to a chunk's positions."""
        left = self.config.prefill_chunk
        for request in sorted(self._active.values(), key=lambda request: request.submitted_s):
            while left > 0 and not request.finished:
                if not request.taken_in:
                    left -= self._take_in_chunk(request)
                elif isinstance(request, Scoring):
                    left -= request.weigh_next(self._runner)
                else:
                    break

    def _take_in_chunk(self, request: Request) -> int:
        prompt, key = request.prompt, request.prefix_key
        if request.filled == 0 and key is not None:
            prefix = self._prefixes.get(key)
            if prefix is not None:
                self._runner.cache.write(request.slot, prefix)
                request.filled = request.cached_tokens = prefix.length
        start, stop = request.filled, request.next_cut(self.config.prefill_chunk)
        hidden_QC = self._runner.chunk(prompt.embeds[start:stop], request.slot, start)
        request.filled = stop
        if key is not None and stop == prompt.prefix_length:
            self._prefixes.put(key, self._runner.cache.read(request.slot, stop))
        if request.taken_in:
            logits_1V = self._runner.logits(hidden_QC[-1:])
            if isinstance(request, Scoring):
                request.begin(logits_1V[0])
            else:
                self._accept([request], logits_1V)  # type: ignore[list-item]
        self._work.add(stop - start)
        return stop - start

    def _decode(self) -> None:
        """One more token for every answer that has begun."""
        answers = [
            request
            for request in self._active.values()
            if isinstance(request, Answering) and request.token_ids and not request.finished
        ]
        if not answers:
            return
        logits_RV = self._runner.step({answer.slot: (answer.token_ids[-1], answer.filled) for answer in answers})
        for answer in answers:
            answer.filled += 1
        self._accept(answers, logits_RV[[answer.slot for answer in answers]])
        self._work.add(len(answers))

    def _accept(self, answers: Sequence[Answering], logits_RV: torch.Tensor) -> None:
        tokens, reports = choose(logits_RV, [answer.sampler for answer in answers])
        for answer, token, report in zip(answers, tokens, reports, strict=True):
            answer.accept(token, report, self.max_length)
        self._tokens.add(len(answers))


class _Rate:
    """Events per second over the last while; written by one thread, read by any."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._events.append((now_s, count))
            self._forget(now_s)

    def per_s(self) -> float:
        now_s = time.monotonic()
        with self._lock:
            self._forget(now_s)
            if not self._events:
                return 0.0
            span_s = max(now_s - self._events[0][0], 1.0)
            return sum(count for _, count in self._events) / span_s

    def _forget(self, now_s: float) -> None:
        while self._events and self._events[0][0] < now_s - _RATE_WINDOW_S:
            self._events.popleft()
