"""A cluster of two nodes with token authentication: submitted jobs, and the loss of a node while they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.extract import DEFAULT_CONFIG
from pipelines.config import load_config
from pipelines.extract import ExtractConfig
from pipelines.extract.towers import load_towers
from pipelines.store import committed_units
from tests.faults.conftest import Place
from tests.faults.content import Content, difference, read_content
from tests.faults.job import Job
from tests.faults.training import WORKER, audit_lines, newest_cursor, write_problem
from tests.faults.two_node_cluster import TwoNodeCluster
from tests.pipelines.extract.conftest import extract_without_ray


@pytest.mark.slow
def test_extraction_outlives_a_node(place: Place, cluster: TwoNodeCluster, clean_copy: Path, expected: Content) -> None:
    with Job(place.words, place.logs, cluster.variables, cluster.submit(clean_copy, "jobs.extract")) as job:
        busy = job.wait_until(lambda: committed_units(place.store) and cluster.on_second_node("MapBatches"))
        assert busy, job.stdout[-4000:] + job.stderr[-4000:]
        cluster.lose_second_node()
        assert job.wait() == 0, job.stdout[-4000:] + job.stderr[-4000:]
        assert "extracted 15 sources" in job.stdout
    assert not difference(read_content(place.store), expected)


@pytest.mark.slow
def test_training_outlives_a_node_with_all_it_has_on_s3(
    bucket: Path, faults_workdir: Path, cluster: TwoNodeCluster, clean_copy: Path, tmp_path: Path
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
    with Job(words, tmp_path / "logs", cluster.variables, cluster.submit(clean_copy, "jobs.train")) as job:
        busy = job.wait_until(lambda: list(root.glob("train/*/checkpoints/*/commit.json")), 150)
        assert busy and cluster.on_second_node(WORKER), job.stdout[-4000:] + job.stderr[-4000:]
        before = newest_cursor(tmp_path / "audit")
        cluster.lose_second_node()
        cluster.replace_second_node()
        assert job.wait() == 0, job.stdout[-4000:] + job.stderr[-4000:]
        assert f"{samples // 2} of {samples // 2} steps" in job.stdout
    learned = sum(len(line["samples"]) for line in audit_lines(tmp_path / "audit") if line["cursor"] > before + 4)
    assert before + 4 < samples // 2 - 1 and learned == 2 * (samples // 2 - before - 5)
    newest = max(root.glob("train/*/checkpoints/*/commit.json"))
    assert json.loads(newest.read_text())["cursor"] == samples // 2
