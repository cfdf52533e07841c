"""A cluster of two nodes with token authentication: submitted jobs, and the loss of a node while they run."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.extract import DEFAULT_CONFIG
from pipelines.config import load_config
from pipelines.extract import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.store import committed_units
from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.job import MARK, ROOT, Job, end_marked, marked
from tests.faults.s3_server import S3Server, environment, free_port
from tests.faults.training import WORKER, audit_lines, newest_cursor, write_problem
from tests.pipelines.extract.conftest import extract_without_ray

_RAY = str(Path(sys.executable).with_name("ray"))
_NODE = ("--num-cpus=2", f"--object-store-memory={200 << 20}", "--min-worker-port=0", "--max-worker-port=0")


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted to, the variables that it takes, and the mark of the second node's processes.

    ``replace`` starts a node in the second one's place.
    """

    dashboard: str
    variables: dict[str, str]
    second_node: str
    replace: Callable[[], None]


@pytest.fixture
def cluster(server: S3Server) -> Iterator[Cluster]:
    # Short names: sockets lie there, and their paths may have 107 characters. One for each node, as each unpacks the
    # job's package into its own and would take it from under the other's feet.
    folders = [tempfile.mkdtemp(prefix="ray-") for _ in range(2)]
    gcs, dashboard = free_port(), free_port()
    head, second, third = (secrets.token_hex(8) for _ in range(3))
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    variables |= environment(server.port)
    try:
        words = [
            "--head",
            f"--port={gcs}",
            f"--temp-dir={folders[0]}",
            "--include-dashboard=true",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={free_port()}",
        ]
        start_node(words, variables | {MARK: head})
        join = [f"--address=127.0.0.1:{gcs}", f"--temp-dir={folders[1]}"]
        start_node(join, variables | {MARK: second})
        yield Cluster(
            f"http://127.0.0.1:{dashboard}", variables, second, lambda: start_node(join, variables | {MARK: third})
        )
    finally:
        end_marked(third)
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


def submit(cluster: Cluster, copy: Path, module: str) -> list[str]:
    words = [_RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", str(copy), "--"]
    return [*words, sys.executable, "-m", module]


@pytest.mark.slow
def test_extraction_outlives_a_node(place: Place, cluster: Cluster, clean_copy: Path, expected: Content) -> None:
    with Job(place.words, place.logs, cluster.variables, submit(cluster, clean_copy, "jobs.extract")) as job:
        busy = job.wait_until(lambda: committed_units(place.store) and marked(cluster.second_node, "MapBatches"))
        assert busy, job.stdout[-4000:] + job.stderr[-4000:]
        end_marked(cluster.second_node)
        assert job.wait() == 0, job.stdout[-4000:] + job.stderr[-4000:]
        assert "extracted 15 sources" in job.stdout
    assert not difference(read_content(place.store), expected)


@pytest.mark.slow
def test_training_outlives_a_node_with_all_it_has_on_s3(
    bucket: Path, faults_workdir: Path, cluster: Cluster, clean_copy: Path, tmp_path: Path
) -> None:
    """Annotations, media, features and checkpoints are in a bucket; of two workers one goes with its node.

    Each takes more than half a node, so the run waits until another node has come.
    """
    root, samples = bucket / tmp_path.name, 240
    words = [f"source={bucket}/videos/short_*.mp4", f"store={root}", f"workdir={faults_workdir}"]
    config = load_config(ExtractConfig, DEFAULT_CONFIG, [*words, "features.siglip=true"])
    towers = load_towers(faults_workdir / "models" / "tiny", ("dinov2", "siglip"))
    store = extract_without_ray(config, towers).uri.removeprefix(f"file://{bucket}/")
    local = write_problem(tmp_path, samples, 1, audit=str(tmp_path / "audit"))
    rows = json.loads((tmp_path / "rows.json").read_text())
    for number, row in enumerate(rows[::24]):
        row["video"] = f"short_{number:02d}.mp4"
        row["conversations"][0]["value"] = "<video>" + row["conversations"][0]["value"]
    (root / "rows.json").write_text(json.dumps(rows))
    uri = f"s3://bucket/{tmp_path.name}"
    words = ["--config", str(local), f"output={uri}", f"data.annotations={uri}/rows.json"]
    words += ["data.media_root=s3://bucket/videos", f"data.store=s3://bucket/{store}", "data.join=content"]
    words += ["data.online=false", f"workdir={faults_workdir}", "workers.cpus=1.2"]
    with Job(words, tmp_path / "logs", cluster.variables, submit(cluster, clean_copy, "jobs.train")) as job:
        busy = job.wait_until(lambda: list(root.glob("train/*/checkpoints/*/commit.json")), 150)
        assert busy and marked(cluster.second_node, WORKER), job.stdout[-4000:] + job.stderr[-4000:]
        before = newest_cursor(tmp_path / "audit")
        end_marked(cluster.second_node)
        cluster.replace()
        assert job.wait() == 0, job.stdout[-4000:] + job.stderr[-4000:]
        assert f"{samples // 2} of {samples // 2} steps" in job.stdout
    learned = sum(len(line["samples"]) for line in audit_lines(tmp_path / "audit") if line["cursor"] > before + 4)
    assert before + 4 < samples // 2 - 1 and learned == 2 * (samples // 2 - before - 5)
    newest = max(root.glob("train/*/checkpoints/*/commit.json"))
    assert json.loads(newest.read_text())["cursor"] == samples // 2
