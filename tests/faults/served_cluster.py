"""A cluster of several nodes on this machine that `serve deploy` puts an endpoint on, with a token of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from jobs.serve import PROXY
from pipelines.serve.auth import new_key
from pipelines.serve.config import ServeConfig
from tests.faults.job import MARK, ROOT, end_marked, marked
from tests.faults.s3_server import free_port
from tests.faults.two_node_cluster import start_node
from tests.pipelines.serve.endpoint import PATIENCE_S, LiveEndpoint


@dataclass(frozen=True)
class ServedCluster:
    """Where `serve deploy` sends an application, and how to reach it.

    Args:
        dashboard: address of Ray's dashboard.
        folder: the application's workdir.
        marks: by which the processes of each node are known.
    """

    dashboard: str
    folder: Path
    port: int
    key: str
    entry: str
    variables: dict[str, str]
    marks: list[str]

    @property
    def endpoint(self) -> LiveEndpoint:
        """A client's view of it."""
        config = ServeConfig.model_validate({"models": [{"name": "tiny", "path": "tiny"}], "port": self.port})
        return LiveEndpoint(f"http://127.0.0.1:{self.port}", self.key, self.folder, config, None)  # type: ignore[arg-type]

    def deploy(self, **settings: Any) -> None:
        """Write the application's file and deploy it; settings of :class:`ServeConfig`."""
        args = {"workdir": str(self.folder), "auth": {"entries": [self.entry]}, "port": self.port, **settings}
        application = {"name": "longvu", "route_prefix": "/", "import_path": "jobs.serve:application", "args": args}
        http = {"host": "127.0.0.1", "port": self.port}
        file = self.folder / "serve.yaml"
        file.write_text(
            yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]})
        )
        command = [str(Path(sys.executable).with_name("serve")), "deploy", str(file), "--address", self.dashboard]
        variables = os.environ | self.variables
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, part: str) -> list[list[psutil.Process]]:
        """Of each node, those whose command line holds ``part``."""
        return [marked(mark, part) for mark in self.marks]


@contextlib.contextmanager
def served_cluster(folder: Path, nodes: int = 1) -> Iterator[ServedCluster]:
    """Nodes of two CPUs; nothing of them is left behind."""
    key, entry = new_key()
    gcs, dashboard = free_port(), free_port()
    # Short names: sockets lie there, and their paths may have 107 characters.
    temps = [tempfile.mkdtemp(prefix="ray-") for _ in range(nodes)]
    marks = [secrets.token_hex(8) for _ in range(nodes)]
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    variables |= {"PYTHONPATH": str(ROOT), **PROXY}
    words = ["--head", f"--port={gcs}", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
    words.append(f"--ray-client-server-port={free_port()}")
    try:
        for mark, temp in zip(marks, temps, strict=True):
            start_node([*words, f"--temp-dir={temp}"], variables | {MARK: mark})
            words = [f"--address=127.0.0.1:{gcs}"]
        yield ServedCluster(f"http://127.0.0.1:{dashboard}", folder, free_port(), key, entry, variables, marks)
    finally:
        for mark in reversed(marks):
            end_marked(mark)
        for temp in temps:
            shutil.rmtree(temp, ignore_errors=True)
