"""A cluster of one's own: locked, apart from others, gone without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipelines.local_cluster import LocalCluster
from tests.faults.job import MARK, ROOT, end_marked, marked


def test_a_job_runs_only_for_who_has_the_token_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "local-cluster-test")
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.1:6379")  # somebody else's, which must not be asked
    try:
        with LocalCluster(tmp_path / "ray.log", num_cpus=2) as cluster:
            assert not marked("local-cluster-test")
            job = cluster.submit("jobs.cli", ["probe", "--help"])
            assert job.stdout is not None
            assert "usage: longvu probe" in job.stdout.read().decode()
            assert job.wait() == 0
            assert marked("local-cluster-test", "raylet")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=10)
            assert refused.value.code == 401
        assert not marked("local-cluster-test")
    finally:
        end_marked("local-cluster-test")


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from pipelines.local_cluster import LocalCluster
        LocalCluster(Path({str(tmp_path / "ray.log")!r}), num_cpus=1).start()
        print("up", flush=True)
        time.sleep(600)
        """
    )
    environment = os.environ | {MARK: "killed-parent-test"}
    try:
        with subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
            living = marked("killed-parent-test")
            assert len(living) > 4
            parent.send_signal(signal.SIGKILL)
            _, left = psutil.wait_procs(living, timeout=60)
        assert not left
    finally:
        end_marked("killed-parent-test")
