"""Processes that draw: one per CPU, because a corpus is as much Python as it is Pillow and x264."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from pipelines.lifeline import die_with_parent


@contextlib.contextmanager
def drawing_processes() -> Iterator[ProcessPoolExecutor]:
    """A pool; what it has not begun is given up when the block ends by an exception."""
    pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _begin() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent says it once
