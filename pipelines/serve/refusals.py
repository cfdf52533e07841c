"""What a client is told when it gets no answer: OpenAI's error shape, each with its reason and the fix."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.serve.guard import MediaRefused

INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass
class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        reason: what is wrong.
        fix: what to do about it.
        code: OpenAI's machine-readable word, or ours.
        param: the field that is meant, dotted.
        retry_after_s: when to ask again, for 429 and 503.
    """

    status: int
    reason: str
    fix: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"

    def __reduce__(self) -> tuple[type[Refusal], tuple[object, ...]]:
        return Refusal, (self.status, self.reason, self.fix, self.code, self.param, self.retry_after_s)

    @property
    def type(self) -> str:
        """OpenAI's class of error."""
        return "server_error" if self.status >= 500 else _TYPES.get(self.status, INVALID)

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body. Text that is not valid Unicode is escaped, so that every error can be sent."""
        told = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": {key: value and _sendable(value) for key, value in told.items()}}

    def headers(self) -> dict[str, str]:
        """Retry-After in whole seconds; how to log in for 401."""
        if self.status == 401:
            return {"WWW-Authenticate": 'Basic realm="longvu", charset="UTF-8"'}
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


def busy(retry_after_s: float, what: str) -> Refusal:
    """429: the endpoint has as much to do as it takes on."""
    wait = max(1, math.ceil(retry_after_s))
    return Refusal(429, what, f"ask again in {wait} s", "overloaded", retry_after_s=wait)


def unavailable(model: str) -> Refusal:
    """503: the replica is gone, being started, or ended while it answered; the same request may be sent again."""
    return Refusal(
        503, f"no replica of {model!r} could finish the answer", "send the request again", "unavailable", None, 2.0
    )


def defect(request_id: str) -> Refusal:
    """500: ours; the log has it under the request's id."""
    return Refusal(500, "the endpoint failed", f"report it with request id {request_id}", "internal_error")


def media_refused(refused: MediaRefused) -> Refusal:
    """A medium that may not be opened, or cannot be used."""
    return Refusal(refused.status, refused.reason, refused.fix, "media_refused", refused.param)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
