"""One live endpoint for all tests of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longvu_model.presets import build_preset
from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import LiveEndpoint, free_port, live_endpoint, serving_ray


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's folder."""
    return build_preset("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds, two scenes."""
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", [12, 8], seed=5)


@pytest.fixture(scope="session")
def endpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEndpoint]:
    """Two names of the tiny model behind one endpoint."""
    port = free_port()
    model = {"path": str(tiny), "num_cpus": 0.2, "slots": 4, "visual_cache_bytes": 1 << 28, "spill_bytes": 0}
    models = [{"name": "tiny", **model}, {"name": "other", **model}]
    limits = {"max_bytes": 8 << 20, "quota_bytes": 24 << 20, "idle_timeout_s": 5.0}
    with (
        serving_ray(port),
        live_endpoint(
            tmp_path_factory.mktemp("endpoint"),
            port,
            models=models,
            uploads=limits,
            endpoint={"num_cpus": 0.1, "max_body_bytes": 4 << 20},
        ) as live,
    ):
        yield live
