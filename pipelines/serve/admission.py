"""Backpressure by tokens: what does not fit is refused at once, instead of waiting for everybody.

A request costs the tokens that it will hold in the KV cache: text, answer, and visual tokens. What a medium costs is
known once it was seen (:class:`KnownCosts`); until then it counts as a whole slot, because decoding and encoding it is
what takes longest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator

from pipelines.serve.refusals import busy

_SMOOTHING = 0.2
_FIRST_GUESS_S = 1.0
_LONGEST_WAIT_S = 60.0


class Gate:
    """Admits requests up to a number of tokens."""

    def __init__(self, capacity_tokens: int):
        self.capacity_tokens = capacity_tokens
        self.tokens = 0
        self.requests = 0
        self._mean_s = _FIRST_GUESS_S
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admit(self, tokens: int) -> Iterator[None]:
        """Hold so many tokens for the while; one request is admitted whatever it costs.

        Raises:
            Refusal: 429, with the time after which one of the admitted requests should have ended.
        """
        with self._lock:
            if self.requests and self.tokens + tokens > self.capacity_tokens:
                wait_s = min(self._mean_s / self.requests, _LONGEST_WAIT_S)
                raise busy(wait_s, f"{self.requests} requests hold {self.tokens} of {self.capacity_tokens} tokens")
            self.tokens += tokens
            self.requests += 1
        started_s = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.tokens -= tokens
                self.requests -= 1
                self._mean_s += _SMOOTHING * (time.monotonic() - started_s - self._mean_s)


class KnownCosts:
    """Visual tokens of media seen before, the most recent ones."""

    def __init__(self, most: int = 10_000):
        self._costs: OrderedDict[Hashable, int] = OrderedDict()
        self._most = most

    def get(self, medium: Hashable, otherwise: int) -> int:
        return self._costs.get(medium, otherwise)

    def learn(self, medium: Hashable, tokens: int) -> None:
        self._costs[medium] = tokens
        self._costs.move_to_end(medium)
        while len(self._costs) > self._most:
            self._costs.popitem(last=False)
