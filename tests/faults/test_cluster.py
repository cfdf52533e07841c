"""A cluster of two nodes with token authentication: a submitted job, and the loss of a node while it runs."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.store import committed_units
from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.job import MARK, ROOT, Job, end_marked, marked
from tests.faults.s3_server import free_port

_RAY = str(Path(sys.executable).with_name("ray"))
_NODE = ("--num-cpus=2", f"--object-store-memory={200 << 20}", "--min-worker-port=0", "--max-worker-port=0")


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted to, the variables that it takes, and the mark of the second node's processes."""

    dashboard: str
    variables: dict[str, str]
    second_node: str


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Short names: sockets lie there, and their paths may have 107 characters. One for each node, as each unpacks the
    # job's package into its own and would take it from under the other's feet.
    folders = [tempfile.mkdtemp(prefix="ray-") for _ in range(2)]
    gcs, dashboard = free_port(), free_port()
    head, second = secrets.token_hex(8), secrets.token_hex(8)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    try:
        words = [
            "--head", f"--port={gcs}", f"--temp-dir={folders[0]}", "--include-dashboard=true",
            f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}",
        ]
        start_node(words, variables | {MARK: head})
        start_node([f"--address=127.0.0.1:{gcs}", f"--temp-dir={folders[1]}"], variables | {MARK: second})
        yield Cluster(f"http://127.0.0.1:{dashboard}", variables, second)
    finally:
        end_marked(second)
        end_marked(head)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def start_node(words: list[str], variables: dict[str, str]) -> None:
    command = [_RAY, "start", *words, *_NODE, f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats"]
    started = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr


@pytest.fixture
def clean_copy(tmp_path: Path) -> Path:
    """What a job needs of this project, and nothing that lies about in a checkout."""
    for package in ("jobs", "pipelines", "longvu_model"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def test_submitted_job_outlives_a_node(place: Place, cluster: Cluster, clean_copy: Path, expected: Content) -> None:
    submit = [_RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(clean_copy), "--"]
    command = [*submit, sys.executable, "-m", "jobs.extract"]
    with Job(place.words, place.logs, cluster.variables, command) as job:
        busy = job.wait_until(
            lambda: committed_units(place.store) and marked(cluster.second_node, "MapBatches")
        )
        assert busy, job.stdout[-4000:] + job.stderr[-4000:]
        end_marked(cluster.second_node)
        assert job.wait() == 0, job.stdout[-4000:] + job.stderr[-4000:]
        assert "extracted 15 sources" in job.stdout
    assert not difference(read_content(place.store), expected)
