"""SIGKILL of any process: nothing lost, nothing twice, nothing read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.extract.plan import read_plan
from pipelines.store import FeatureStore, committed_units
from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.file_watch import FileWatch
from tests.faults.job import VICTIMS, Job, finish
from tests.faults.s3_proxy import DROP, S3Proxy
from tests.faults.s3_server import S3Server, environment


def finished_sources(place: Place) -> set[str]:
    """File names of the sources whose units are all committed, while some others are not; else none."""
    done = committed_units(place.store)
    if not done:
        return set()
    planned = read_plan(place.store).select(["unit_id", "source"]).to_pylist()
    left = {row["source"] for row in planned if row["unit_id"] not in done}
    return {Path(row["source"]).name for row in planned if row["source"] not in left} if left else set()


@pytest.mark.slow
def test_a_run_survives_the_death_of_every_kind_of_worker(place: Place, expected: Content) -> None:
    with Job(place.words, place.logs) as job:
        for victim in ("decoding child", "decode actor", "encode actor", "commit actor"):
            assert job.wait_until(lambda kind=victim: job.processes(VICTIMS[kind])), f"no {victim}: {job.stderr}"
            if victim == "commit actor":
                assert job.wait_until(lambda: committed_units(place.store))
            assert job.kill(victim)
        assert job.wait() == 0, job.stderr
    assert not difference(read_content(place.store), expected)


@pytest.mark.slow
def test_a_dead_machine_costs_what_it_had_in_hand(place: Place, expected: Content) -> None:
    with Job(place.words, place.logs) as job:
        assert job.wait_until(lambda: finished_sources(place))
    survived = FeatureStore.open(place.store).commits
    finished = finished_sources(place)
    assert finished, "the kill did not fall into the middle"
    with FileWatch(place.videos) as watch:
        resumed = finish(place.words, place.logs)
    assert resumed.exit_code == 0, resumed.stderr
    touched = {Path(path).name for path in watch.opened | watch.read}
    assert touched and not touched & finished
    commits = FeatureStore.open(place.store).commits
    assert {unit: commits[unit] for unit in survived} == survived
    assert not difference(read_content(place.store), expected)


@pytest.mark.slow
def test_killed_and_resumed_on_s3_that_stumbles(s3_place: Place, server: S3Server, expected: Content) -> None:
    """One request in nine is refused as an overloaded S3 does it, one in thirty-one breaks off."""
    count = 0

    def stumble(method: str, key: str) -> int | str | None:
        nonlocal count
        count += 1
        return DROP if count % 31 == 0 else 503 if count % 9 == 0 else None

    with S3Proxy(server.port, stumble) as proxy:
        variables = environment(proxy.port)
        with Job(s3_place.words, s3_place.logs, variables) as job:
            assert job.wait_until(lambda: finished_sources(s3_place))
            job.kill("driver")
            job.wait()
            finished = finished_sources(s3_place)
        assert finished, "the kill did not fall into the middle"
        proxy.requests.clear()
        resumed = finish(s3_place.words, s3_place.logs, variables)
        assert resumed.exit_code == 0, resumed.stderr
        read = proxy.bytes_read("bucket/videos/")
    assert read and not {Path(key).name for key in read} & finished
    assert count > 50 and not difference(read_content(s3_place.store), expected)
