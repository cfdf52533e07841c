"""A Ray cluster to work on: the one that was named, or one of our own for the while."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator

from pipelines.errors import UserError


@contextlib.contextmanager
def ray_session(num_cpus: float) -> Iterator[None]:
    """Join the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start Ray here for the while.

    Args:
        num_cpus: that the job needs to begin. A Ray of our own gets so many logical CPUs, whatever the machine has.

    Raises:
        UserError: no cluster answers.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one") from None
    else:
        # When Ray's control process dies, its driver exits with code 1: after this time, not after a minute.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        ray.init(
            address="local",
            num_cpus=max(math.ceil(num_cpus), os.cpu_count() or 1),
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
