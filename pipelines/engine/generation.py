"""An answer while it comes into being: what the caller holds, and what the engine's thread fills."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


class EngineFull(RuntimeError):
    """Too much is waiting already; try again after ``retry_after_s`` seconds."""

    def __init__(self, waiting_tokens: int, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{waiting_tokens} tokens are waiting, the limit is {limit}; try again in {retry_after_s:.0f} s"
        )
        self.waiting_tokens, self.limit, self.retry_after_s = waiting_tokens, limit, retry_after_s


class EngineFailed(RuntimeError):
    """The engine's thread has ended, by :meth:`Engine.close` or of the exception that is this one's cause."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities before temperature and top_p: of a token, and of the likeliest ones."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Delta:
    """What a step added to an answer. Text may lag behind tokens: signs of several tokens, beginnings of stop texts."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Completion:
    """A finished answer.

    Attributes:
        text: without what stopped it.
        token_ids: all tokens but the one that ended it.
        logprobs: of each token, if asked for.
        finish_reason: "stop" for the model's own end or a stop text, "length", or "cancelled".
        prompt_tokens: positions of the prompt.
        cached_tokens: of these, the ones whose keys and values were there already.
        seconds: ``queued`` for a slot, ``first_token`` since it was submitted, ``total``.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    seconds: dict[str, float]

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


class Generation:
    """An answer that was asked for; iterate over it, or wait for its result, from any thread.

    Attributes:
        future: of the :class:`Completion`, for ``asyncio.wrap_future``.
    """

    def __init__(self, on_delta: Callable[[Delta], None] | None = None) -> None:
        self.future: Future[Completion] = Future()
        self._deltas: queue.SimpleQueue[Delta | None] = queue.SimpleQueue()
        self._on_delta = on_delta
        self._cancelled = False

    def __iter__(self) -> Iterator[Delta]:
        """The deltas as they come, once.

        Raises:
            EngineFailed: the engine ended before the answer did.
        """
        while (delta := self._deltas.get()) is not None:
            yield delta
        self.result()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds.
            EngineFailed: the engine ended before the answer did.
        """
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Stop; the slot is free within one step. The result is what there was so far."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called, or the future cancelled."""
        return self._cancelled or self.future.cancelled()

    # The engine's side.

    def add(self, delta: Delta) -> None:
        """Hand over a delta. A listener that raises ends its own answer only."""
        self._deltas.put(delta)
        if self._on_delta is not None and not self.future.done():
            try:
                self._on_delta(delta)
            except Exception as error:
                self.fail(error)
                self._cancelled = True

    def finish(self, completion: Completion) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled by whoever waits for it, or failed before
            self.future.set_result(completion)
        self._deltas.put(None)

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)
        self._deltas.put(None)
