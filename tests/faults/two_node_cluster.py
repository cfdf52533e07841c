"""A cluster of two nodes with token authentication, to submit jobs to. Its second node can be lost and replaced."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.job import MARK, end_marked, marked
from tests.faults.s3_server import free_port

_RAY = str(Path(sys.executable).with_name("ray"))
_NODE = ("--num-cpus=2", f"--object-store-memory={200 << 20}", "--min-worker-port=0", "--max-worker-port=0")


@dataclass
class TwoNodeCluster:
    """A running cluster.

    Args:
        dashboard: where jobs are submitted to.
        variables: that its processes take, and that its clients need.
        join: words of `ray start` for the second node.
        second_node: mark of the second node's processes.
    """

    dashboard: str
    variables: dict[str, str]
    join: Sequence[str]
    second_node: str

    def submit(self, working_dir: Path, module: str) -> list[str]:
        """The command that runs ``python -m module`` on the cluster until it ends; settings are appended."""
        words = [_RAY, "job", "submit", "--address", self.dashboard, "--working-dir", str(working_dir), "--"]
        return [*words, sys.executable, "-m", module]

    def stop(self, submission: str) -> None:
        """Tell a job to end, and wait until it has."""
        command = [_RAY, "job", "stop", "--address", self.dashboard, submission]
        subprocess.run(command, env=os.environ | self.variables, capture_output=True, check=True, timeout=120)

    def on_second_node(self, part: str) -> list[psutil.Process]:
        """Processes of the second node whose command line holds ``part``."""
        return marked(self.second_node, part)

    def lose_second_node(self) -> None:
        """SIGKILL all that runs there, Ray's own processes too."""
        end_marked(self.second_node)

    def replace_second_node(self) -> None:
        """Start a node in the place of the one that was lost."""
        self.second_node = secrets.token_hex(8)
        start_node(self.join, self.variables | {MARK: self.second_node})


@contextlib.contextmanager
def two_node_cluster(more: Mapping[str, str]) -> Iterator[TwoNodeCluster]:
    """Start both nodes; nothing of them is left behind.

    Args:
        more: variables that jobs are to find.
    """
    # Short names: sockets lie there, and their paths may have 107 characters. One for each node, as each unpacks the
    # job's package into its own and would take it from under the other's feet.
    folders = [tempfile.mkdtemp(prefix="ray-") for _ in range(2)]
    gcs, dashboard, head = free_port(), free_port(), secrets.token_hex(8)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    variables |= {"RAY_worker_niceness": "0", **more}  # Ray gives 15, and a busy machine then gives its workers nothing
    # For Ray's own actors, which otherwise look for a cluster on this machine and may find somebody else's too.
    variables["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    join = [f"--address=127.0.0.1:{gcs}", f"--temp-dir={folders[1]}"]
    cluster = TwoNodeCluster(variables["RAY_API_SERVER_ADDRESS"], variables, join, secrets.token_hex(8))
    words = ["--head", f"--port={gcs}", f"--temp-dir={folders[0]}", "--include-dashboard=true"]
    words += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    try:
        start_node(words, variables | {MARK: head})
        start_node(join, variables | {MARK: cluster.second_node})
        yield cluster
    finally:
        end_marked(cluster.second_node)
        end_marked(head)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def start_node(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """`ray start`, of two CPUs."""
    command = [_RAY, "start", *words, *_NODE, f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats"]
    started = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr
