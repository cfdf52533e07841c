"""Being asked to stop: SIGTERM, Ray's notice that a node will be taken away, or the driver's call.

A worker that is asked finishes its step; all workers then write a checkpoint and end. Signals reach a process's main
thread, and Ray Train runs training in another, so :func:`listen` is called on the main thread of each worker.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_asked = threading.Event()
_interrupted = threading.Event()
_called_off = threading.Event()


class Preempted(RuntimeError):
    """A worker has to go; a checkpoint was written. Ray Train starts the workers again, here or elsewhere."""


def listen() -> None:
    """From now on SIGTERM asks this process to stop instead of ending it; on the main thread."""
    signal.signal(signal.SIGTERM, lambda _, __: _asked.set())


@contextlib.contextmanager
def listening_to_ctrl_c() -> Iterator[None]:
    """The same for the first Ctrl-C in a terminal; the second ends the process."""

    def interrupt(_: int, __: object) -> None:
        _asked.set()
        _interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted() -> bool:
    """Whether it was Ctrl-C that asked this process to stop."""
    return _interrupted.is_set()


def asked() -> bool:
    """Whether this process was asked to stop, or its node will be taken away."""
    return _asked.is_set() or _node_drains()


def call_off() -> None:
    """What a driver runs in its workers, which go on being its own, when it is asked to stop itself."""
    _called_off.set()


def called_off() -> bool:
    """Whether the driver wants this worker to stop."""
    return _called_off.is_set()


def _node_drains() -> bool:
    """What Ray's public ``get_preemption_info`` reads; that is a barrier of all workers, too dear for every step."""
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:  # not inside of a Ray Train worker
        return False
