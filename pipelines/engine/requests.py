"""What a slot works on: a prompt to answer, or a prompt whose continuations are scored.

Shapes: Q positions of a chunk, C model width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from torch import Tensor

from pipelines.engine.answer_text import AnswerText
from pipelines.engine.generation import Completion, Delta, FinishReason, Generation, TokenLogprob
from pipelines.engine.runner import Runner
from pipelines.engine.sampling import TokenSampler
from pipelines.engine.settings import SamplingParams
from pipelines.video_models.base import Prompt, VideoModel


class Request(ABC):
    """A prompt on its way through a slot.

    Attributes:
        prompt: what is taken in first.
        room: positions beyond the prompt that it may need.
        slot: -1 while it waits.
        filled: positions of the slot that hold something of it.
        cached_tokens: of these, the ones that were copied from an earlier prompt.
    """

    def __init__(self, prompt: Prompt, room: int) -> None:
        self.prompt, self.room = prompt, room
        self.slot, self.filled, self.cached_tokens = -1, 0, 0
        self.submitted_s = time.perf_counter()
        self.admitted_s = self.submitted_s

    @property
    def num_tokens(self) -> int:
        """Positions that it may take."""
        return len(self.prompt) + self.room

    @property
    def prefix_key(self) -> str | None:
        """Under which the keys and values of the prompt's beginning are held; None if there is no such beginning."""
        return self.prompt.prefix_key if 0 < self.prompt.prefix_length < len(self.prompt) else None

    @property
    def taken_in(self) -> bool:
        """Whether the whole prompt is in the slot."""
        return self.filled >= len(self.prompt)

    def next_cut(self, chunk: int) -> int:
        """Where the next chunk of the prompt ends; cuts depend on nothing but the prompt."""
        end = len(self.prompt)
        if self.prefix_key is not None and self.filled < self.prompt.prefix_length:
            end = self.prompt.prefix_length
        return min(self.filled + chunk, end)

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether its slot can be given to another."""

    @abstractmethod
    def cancel(self) -> None:
        """Give what there is."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Give the error instead."""


class Answering(Request):
    """A prompt that is answered token by token.

    Attributes:
        token_ids: of the answer so far; the last one is not in the slot yet.
        sampler: chooses the next.
    """

    def __init__(self, prompt: Prompt, params: SamplingParams, generation: Generation, model: VideoModel) -> None:
        super().__init__(prompt, params.max_tokens)
        self.sampler = TokenSampler(params)
        self.token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._generation, self._ends = generation, model.eos_token_ids
        self._text = AnswerText(model.tokenizer, (*model.stop_strings, *params.stop))
        self._pieces: list[str] = []
        self._first_token_s: float | None = None
        self._finished = False

    @property
    def cancelled(self) -> bool:
        return self._generation.cancelled

    @property
    def finished(self) -> bool:
        return self._finished

    def accept(self, token_id: int, report: TokenLogprob | None, length: int) -> None:
        """Take the next token; ``length`` positions are all that a slot has."""
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter()
        if token_id in self._ends:
            self._finish("stop")
            return
        self.token_ids.append(token_id)
        reports = [] if report is None else [report]
        self._logprobs += reports
        self._give(Delta(self._text.add(token_id), [token_id], reports))
        if self._text.stopped:
            self._finish("stop")
        elif len(self.token_ids) >= self.room or self.filled >= length:
            self._finish("length")

    def cancel(self) -> None:
        self._finish("cancelled")

    def fail(self, error: BaseException) -> None:
        self._finished = True
        self._generation.fail(error)

    def _give(self, delta: Delta) -> None:
        self._pieces.append(delta.text)
        self._generation.add(delta)

    def _finish(self, reason: FinishReason) -> None:
        rest = self._text.rest()
        if rest:
            self._give(Delta(rest, []))
        now_s = time.perf_counter()
        seconds = {"queued": self.admitted_s - self.submitted_s, "total": now_s - self.submitted_s}
        if self._first_token_s is not None:
            seconds["first_token"] = self._first_token_s - self.submitted_s
        self._finished = True
        self._generation.finish(
            Completion(
                "".join(self._pieces),
                self.token_ids,
                self._logprobs,
                reason,
                len(self.prompt),
                self.cached_tokens,
                seconds,
            )
        )


class Scoring(Request):
    """A prompt after which several texts are weighed; they take the same positions one after the other.

    Args:
        continuations: token ids of each, none empty.
    """

    def __init__(self, prompt: Prompt, continuations: Sequence[list[int]]) -> None:
        super().__init__(prompt, max(map(len, continuations)))
        self.future: Future[list[float]] = Future()
        self._continuations = continuations
        self._scores: list[float] = []
        self._before_V: Tensor | None = None

    @property
    def cancelled(self) -> bool:
        return self.future.cancelled()

    @property
    def finished(self) -> bool:
        return self.future.done()

    def begin(self, logits_V: Tensor) -> None:
        """The prompt is in; these logits follow it."""
        self._before_V = logits_V.float().log_softmax(0)

    def weigh_next(self, runner: Runner) -> int:
        """Sum of log probabilities of the next continuation's tokens; returns how many there were."""
        assert self._before_V is not None
        ids = self._continuations[len(self._scores)]
        score = self._before_V[ids[0]]
        if len(ids) > 1:
            hidden_QC = runner.chunk(runner.embed(ids[:-1]), self.slot, len(self.prompt))
            logprobs_QV = runner.logits(hidden_QC).float().log_softmax(1)
            score = score + logprobs_QV[range(len(ids) - 1), ids[1:]].sum()
        self._scores.append(float(score))
        if len(self._scores) == len(self._continuations):
            with contextlib.suppress(InvalidStateError):  # the caller gave up
                self.future.set_result(self._scores)
        return len(ids)

    def cancel(self) -> None:
        """Nothing: only a future that was cancelled gets here."""

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)
