"""Something happens at a storage operation: the process dies there, or another process does its work in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines import storage
from pipelines.storage import HashingOutput

_FUNCTIONS = ("arrow_input", "listing", "read_bytes", "remove", "stat", "write_bytes")


class Killed(BaseException):
    """The process was killed."""


class Operations:
    """Counts storage operations, and calls ``at`` with its number before each, in whatever thread that is.

    Those that ``at`` itself makes, and what else happens meanwhile, do not count.
    """

    def __init__(self, at: Callable[[int], None]):
        self._at = at
        self._lock = threading.Lock()
        self._inside = False
        self.count = 0

    def next(self) -> None:
        with self._lock:
            if self._inside:
                return
            self._inside = True
            number, self.count = self.count, self.count + 1
        try:
            self._at(number)
        finally:
            self._inside = False


@contextlib.contextmanager
def watched(at: Callable[[int], None]) -> Iterator[Operations]:
    """Call ``at`` before every storage operation of what runs inside."""
    operations = Operations(at)
    with pytest.MonkeyPatch.context() as patch:
        for name in _FUNCTIONS:
            patch.setattr(storage, name, _counted(getattr(storage, name), operations))
        patch.setattr(HashingOutput, "__init__", _counted(HashingOutput.__init__, operations))
        patch.setattr(HashingOutput, "close", _counted(HashingOutput.close, operations))
        yield operations


@contextlib.contextmanager
def killed_at(operation: int) -> Iterator[Operations]:
    """Die before that operation. What the dead process still tries to do, or to tidy up, does not happen."""

    def die(number: int) -> None:
        if number >= operation:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(HashingOutput, "discard", lambda self: self._file.close())
        with watched(die) as operations:
            yield operations


def _counted(function: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        operations.next()
        return function(*arguments, **options)

    return call
