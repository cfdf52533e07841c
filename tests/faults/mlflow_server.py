"""A real MLflow server on this machine, whose clients' artifacts go through it to where it keeps them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.job import MARK, end_marked
from tests.faults.s3_server import free_port
from tests.pipelines.mlflow_database import write_database

_STARTS_WITHIN_S = 120.0


@contextlib.contextmanager
def mlflow_server(folder: Path, artifacts: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Its URI; no process of it is left behind.

    Args:
        folder: for its database and its log.
        artifacts: URI of the folder or prefix where it keeps files.
        variables: that lead it there.
    """
    write_database(folder)
    port, mark = free_port(), secrets.token_hex(8)
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--artifacts-destination", artifacts]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", MARK: mark}
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env={**os.environ, **variables, **own},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + _STARTS_WITHIN_S
        while not _answers(uri):
            assert server.poll() is None and time.monotonic() < deadline_s, (folder / "mlflow.log").read_text()[-4000:]
            time.sleep(0.1)
        yield uri
    finally:
        end_marked(mark)
        server.wait()


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
