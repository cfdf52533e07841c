"""One live endpoint for all tests of serving, with a feature store that has one video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from tests.pipelines.conftest import write_video
from tests.pipelines.extract.conftest import extract_without_ray
from tests.pipelines.serve.endpoint import LiveEndpoint, live_endpoint, tiny_model


@dataclass(frozen=True)
class Stored:
    """A feature store and the one video in it."""

    store: str
    video: Path

    @property
    def url(self) -> str:
        return f"video:{hashlib.sha256(self.video.read_bytes()).hexdigest()}"


@pytest.fixture(scope="session")
def tiny(workdir: Path) -> Path:
    """The tiny preset's folder."""
    return workdir / "models" / "tiny"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds, two scenes."""
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", [12, 8], seed=5)


@pytest.fixture(scope="session")
def stored(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Fifteen seconds, two scenes, extracted at one frame per second."""
    folder = tmp_path_factory.mktemp("stored")
    video = write_video(folder / "videos" / "stored.mp4", [9, 6], seed=7)
    config = ExtractConfig(source=str(video.parent), store=str(folder), features={"siglip": True}, keep_all_below=32)
    return Stored(extract_without_ray(config, load_towers(tiny, ("dinov2", "siglip"))).uri, video)


@pytest.fixture(scope="package")
def endpoint(tiny: Path, stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    """Two names of the tiny model behind one endpoint; the first has the store."""
    with live_endpoint(
        tmp_path_factory.mktemp("endpoint"),
        models=[tiny_model(tiny, store=stored.store), tiny_model(tiny, name="other")],
        uploads={"max_bytes": 8 << 20, "quota_bytes": 24 << 20},
        media={"max_bytes": 1 << 20, "max_frames": 1000},
        endpoint={"num_cpus": 0.1, "max_body_bytes": 4 << 20, "ui": True, "idle_timeout_s": 5.0},
        tracking={"sample": 1.0, "texts": True},
    ) as live:
        yield live
