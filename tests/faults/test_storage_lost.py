"""A disk that fills up, a bucket that goes away: one line, an exit code of its own, and the next run mends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import STOPPED_EXIT
from pipelines.store import committed_units
from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.job import Job, finish
from tests.faults.s3_server import S3Server, environment


def small_disk(folder: Path, size: str, *, again: bool = False) -> None:
    options = f"remount,size={size}" if again else f"size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB, a third of what the store takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    try:
        small_disk(folder, "400k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_disk_full(bucket: Path, faults_workdir: Path, disk: Path, expected: Content) -> None:
    place = Place(bucket / "videos", disk / "stores", faults_workdir)
    words = [*place.words, "commit.write_attempts=2"]
    stopped = finish(words, place.logs)
    assert stopped.exit_code == STOPPED_EXIT, stopped.stderr
    assert "No space left on device" in stopped.last_words and stopped.last_words.startswith("error: ")
    assert "Traceback" not in stopped.stderr
    assert committed_units(place.store), "the disk was full before the first commit"
    small_disk(disk, "64m", again=True)
    resumed = finish(words, place.logs)
    assert resumed.exit_code == 0, resumed.stderr
    assert not difference(read_content(place.store), expected)


@pytest.mark.slow
def test_bucket_goes_away(s3_place: Place, server: S3Server, expected: Content) -> None:
    words = [*s3_place.words, "commit.write_attempts=2", "decode.read_attempts=2"]
    variables = environment(server.port)
    with Job(words, s3_place.logs, variables) as job:
        assert job.wait_until(lambda: len(committed_units(s3_place.store)) > 3)
        server.stop()
        assert job.wait() == STOPPED_EXIT, job.stderr
        assert job.last_words.startswith("error: s3://bucket/") and "Traceback" not in job.stderr
    server.start()
    resumed = finish(words, s3_place.logs, variables)
    assert resumed.exit_code == 0, resumed.stderr
    assert not difference(read_content(s3_place.store), expected)
