"""A Ray cluster to work on: the one that was named, or one of our own for the while."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

from pipelines.errors import UserError

_RAY_SETTINGS = {
    # When Ray's control process dies, its driver exits with code 1: after this time, not after a minute.
    "gcs_rpc_server_reconnect_timeout_s": "10",
    # Workers whose driver was killed go on until they look.
    "raylet_death_check_interval_milliseconds": "200",
    # A node that is quicker than its object store tries again after a tenth of a second, not after a whole one.
    "raylet_client_connect_timeout_milliseconds": "100",
    "raylet_client_num_connect_attempts": "100",
}
_PRELOADED = "longvu/preloaded/"
_PRELOADED_WITHIN_S = 30.0


@contextlib.contextmanager
def ray_session(num_cpus: float) -> Iterator[None]:
    """Join the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start Ray here for the while.

    Args:
        num_cpus: that the job needs to begin. A Ray of our own gets so many logical CPUs, whatever the machine has.

    Raises:
        UserError: no cluster answers.
    """
    with starting_ray(num_cpus) as ready:
        ready()
        yield


@contextlib.contextmanager
def starting_ray(num_cpus: float, preload: str = "", processes: int = 0) -> Iterator[Callable[[], None]]:
    """The same in the background: there is Ray when what is yielded here was called and returned.

    Args:
        preload: module that the processes of a Ray of our own import before anything else. It calls
            :func:`announce_preloaded` when it is done.
        processes: that have done so by then; of the first ones, as many as there are CPUs.
    """
    import ray

    if ray.is_initialized():
        yield lambda: None
        return
    with ThreadPoolExecutor(1, "ray") as thread:
        started = thread.submit(_start, num_cpus, preload, processes)
        try:
            yield lambda: _joined(started)
        finally:
            started.exception()  # waits
            ray.shutdown()


def _joined(started: Future[None]) -> None:
    started.result()
    if threading.current_thread() is threading.main_thread():  # Ray's own handler prints a trace first
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _start(num_cpus: float, preload: str, processes: int) -> None:
    import ray
    from ray._private import parameter
    from ray._private.node import Node

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one") from None
        return
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(f"RAY_{name}", value)
    if preload:
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        os.environ |= {
            "RAY_preload_python_modules": preload,
            "RAY_idle_worker_killing_time_threshold_ms": "60000",  # not before they were needed
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),  # Ray adds the driver's folder later
        }
    # Ray's agent has a port of its own. While another Ray holds it, one just killed for instance, it tries for 3 s.
    # The monitor is an autoscaler, and there is nothing to scale. Without a dashboard its process counts usage only.
    settings = partial(parameter.RayParams, dashboard_agent_listen_port=0, no_monitor=True)
    with mock.patch.object(parameter, "RayParams", settings), mock.patch.object(Node, "start_api_server"):
        ray.init(
            address="local",
            num_cpus=max(math.ceil(num_cpus), os.cpu_count() or 1),
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    if preload:
        _wait_for_preloaded(min(processes, os.cpu_count() or 1))


def announce_preloaded() -> None:
    """Tell the driver that this process, if it is one of Ray's, has imported what it was told to."""
    import ray
    from ray.experimental import internal_kv

    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        internal_kv._internal_kv_put(f"{_PRELOADED}{os.getpid()}", b"")


def _wait_for_preloaded(processes: int) -> None:
    """A task that comes earlier gets a new process, which imports everything for itself."""
    from ray.experimental import internal_kv

    late_s = time.monotonic() + _PRELOADED_WITHIN_S
    while len(internal_kv._internal_kv_list(_PRELOADED)) < processes and time.monotonic() < late_s:
        time.sleep(0.05)
