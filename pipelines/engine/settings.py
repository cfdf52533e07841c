"""What can be chosen: for an engine once, and for every request."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import UserError

MAX_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How one request is answered.

    Args:
        max_tokens: limit on the answer.
        temperature: 0 takes the most likely token each time.
        top_p: sample among the most likely tokens that together have at least this probability.
        seed: of this request's own generator; equal seeds give equal answers, whoever else is being answered.
        stop: texts that end the answer and are not part of it, besides the model's own.
        logprobs: for each token of the answer, report this many of the most likely ones; 0 reports nothing.

    Raises:
        UserError: a value out of range; the message names it.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int = 0

    def __post_init__(self) -> None:
        _check(self.max_tokens >= 1, f"max_tokens={self.max_tokens}: must be at least 1")
        _check(0 <= self.temperature <= 100, f"temperature={self.temperature}: must be from 0 to 100")
        _check(0 < self.top_p <= 1, f"top_p={self.top_p}: must be above 0 and at most 1")
        _check(0 <= self.logprobs <= MAX_LOGPROBS, f"logprobs={self.logprobs}: must be from 0 to {MAX_LOGPROBS}")
        _check(
            isinstance(self.stop, tuple) and all(self.stop),
            f"stop={self.stop!r}: give a tuple of texts, none of them empty",
        )


@dataclass(frozen=True)
class EngineConfig:
    """How one model is served.

    Args:
        slots: requests that are answered at the same time; each holds keys and values of ``max_length`` positions.
        max_length: positions that a prompt and its answer may take together; the model's own limit by default.
        prefill_chunk: positions of prompts that are taken in between two decoding steps.
        prefix_cache_bytes: keys and values of videos, held on the model's device.
        prefix_spill_bytes: of those that no longer fit there, held in host memory.
        max_waiting_tokens: prompt and answer positions of requests that wait for a slot; beyond it they are refused.
            By default as many as the slots hold twice.
        least_rows: rows of a decoding step at least, see ``runner.py``; by default 4 on a CPU, elsewhere all slots.
        cuda_graphs: replay decoding steps as CUDA graphs, captured when the engine starts.

    Raises:
        UserError: a value out of range; the message names it.
    """

    slots: int = 16
    max_length: int | None = None
    prefill_chunk: int = 512
    prefix_cache_bytes: int = 4 << 30
    prefix_spill_bytes: int = 8 << 30
    max_waiting_tokens: int | None = None
    least_rows: int | None = None
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name in ("slots", "max_length", "prefill_chunk", "max_waiting_tokens", "least_rows"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"{name}={value}: must be at least 1")
        for name in ("prefix_cache_bytes", "prefix_spill_bytes"):
            _check(getattr(self, name) >= 0, f"{name}={getattr(self, name)}: must be at least 0")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)
