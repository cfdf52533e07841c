"""Child processes that end with the process that started them, even if that one is killed. Linux."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Called in a child: get this signal when the thread that started it ends. For ``preexec_fn`` and initializers."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
