"""Patience with storage: what may work a moment later is tried again, with growing random waits."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

ATTEMPTS = 5
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0

# What disks, network file systems and S3 (in s3fs's translation) say of troubles that pass.
_PASSING = frozenset(
    (
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    )
)

_CONNECTION_TROUBLES = frozenset(
    ("ConnectionError", "HTTPClientError", "IncompleteReadError", "ClientConnectionError", "ClientPayloadError")
)


def passing(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, may be gone a moment later: a busy or unreachable service, a shaky disk."""
    while error is not None:
        if isinstance(error, TimeoutError | ConnectionError) or _is_connection_trouble(error):
            return True
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False


def retrying(action: Callable[[], Result], attempts: int = ATTEMPTS, first_wait_s: float | None = None) -> Result:
    """Call ``action`` until it returns, at most ``attempts`` times; errors that will not pass are raised at once.

    Between calls it waits 0.5 to 1 times ``first_wait_s`` (0.5 s), doubled each time, at most 30 s. S3 requests have
    retries of their own below this (``AWS_MAX_ATTEMPTS``); here it is the whole action that is repeated.
    """
    for attempt in range(1, attempts):
        try:
            return action()
        except OSError as error:
            if not passing(error):
                raise
        wait_s = min((first_wait_s or _FIRST_WAIT_S) * 2 ** (attempt - 1), _LONGEST_WAIT_S)
        time.sleep(wait_s * random.uniform(0.5, 1.0))
    return action()


def _is_connection_trouble(error: BaseException) -> bool:
    """botocore and aiohttp have their own classes for it; neither is imported where S3 is not used."""
    return any(kind.__name__ in _CONNECTION_TROUBLES for kind in type(error).__mro__)
