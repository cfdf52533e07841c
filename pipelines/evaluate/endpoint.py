"""One request to an OpenAI-compatible endpoint, with patience: whose fault a failure is decides what happens.

The question's (the server refuses it, or fails on it every time): :class:`Refused`, the rest goes on. The endpoint's
(away, overloaded for long, wrong key): :class:`EndpointGone`, the run stops and continues there later.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluate.answerers import EndpointGone, Refused
from pipelines.evaluate.config import RequestsConfig

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
# The server is busy, restarting, or gone behind its proxy.
_PASSING = frozenset((408, 409, 425, 429, 502, 503, 504))
_NOT_FOR_US = {
    401: "set its API key in {variable}",
    403: "check the rights of the API key in {variable}",
    404: "check the URL, which ends in /v1 as a rule, and the model's name",
}


@dataclass(frozen=True)
class Completed:
    """A reply and what the server says about it."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]
    model: str


class Endpoint:
    """A model behind a URL. Thread-safe; ``concurrency`` requests at a time, whoever asks.

    Attributes:
        url: base URL.
        model: its name there.
    """

    def __init__(self, url: str, model: str, config: RequestsConfig):
        from openai import OpenAI

        self.url, self.model, self._config = url.rstrip("/"), model, config
        key = os.environ.get(config.key_variable) or "none"
        self._client = OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=config.timeout_s)
        self._turns = threading.BoundedSemaphore(config.concurrency)

    def complete(self, messages: Sequence[dict[str, Any]], **settings: Any) -> Completed:
        """The reply to a conversation.

        Args:
            settings: as the client's ``chat.completions.create`` takes them.

        Raises:
            Refused: the server does not answer this, and never will, or gave a reply without text.
            EndpointGone: the server answers nobody, or not us.
        """
        with self._turns:
            for attempt in range(1, self._config.attempts + 1):
                try:
                    return self._once(messages, settings)
                except _Passing as trouble:
                    if attempt == self._config.attempts:
                        raise trouble.final from None
                    time.sleep(_wait_s(attempt, trouble.retry_after))
        raise AssertionError("at least one attempt")

    def close(self) -> None:
        self._client.close()

    def _once(self, messages: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Completed:
        from openai import APIConnectionError, APIStatusError

        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, **settings)  # type: ignore[arg-type]
        except APIStatusError as error:
            raise self._reaction(error.status_code, error) from None
        except APIConnectionError as error:  # timeouts are among them
            why = error.__cause__ or error
            raise _Passing(
                EndpointGone(
                    f"{self.url}: does not answer ({why}) after {self._config.attempts} attempts; start it, "
                    f"the same command continues"
                )
            ) from None
        choices = answer.choices or []
        text = choices[0].message.content if choices else None
        if text is None:
            raise Refused("UnreadableReply", f"{self.url}: a completion without text")
        return Completed(
            text, choices[0].finish_reason, answer.usage.model_dump() if answer.usage else {}, answer.model
        )

    def _reaction(self, status: int, error: Any) -> Exception:
        said = str(error.message)[:500]
        if status in _NOT_FOR_US:
            fix = _NOT_FOR_US[status].format(variable=self._config.key_variable)
            return EndpointGone(f"{self.url}: model {self.model}: {status} ({said}); {fix}")
        if status in _PASSING:
            retry_after = error.response.headers.get("retry-after")
            gone = f"{self.url}: still {status} after {self._config.attempts} attempts ({said}); try again later"
            return _Passing(EndpointGone(gone), retry_after)
        if status >= 500:
            return _Passing(Refused("ServerError", f"{status} in each of {self._config.attempts} attempts: {said}"))
        return Refused("RequestRefused", f"{status}: {said}")


class _Passing(Exception):
    """Worth another attempt; ``final`` is raised when there is none left."""

    def __init__(self, final: Exception, retry_after: str | None = None):
        super().__init__(str(final))
        self.final, self.retry_after = final, retry_after


def _wait_s(attempt: int, retry_after: str | None) -> float:
    """What the server asks for, in seconds; else 0.5 s doubled each time with some chance, at most a minute."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:  # none, or a date
        return min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
