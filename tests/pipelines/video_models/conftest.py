"""The tiny preset behind the common interface, a video of four scenes and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longvu_model.video import FrameSampling
from pipelines.video_models import load_video_model
from pipelines.video_models.longvu import LongVU
from pipelines.video_models.longvu_media import LongVUMedia
from tests.pipelines.conftest import write_video

Watcher = Callable[[float], LongVUMedia]


@pytest.fixture(scope="session")
def tiny_folder(workdir: Path) -> Path:
    return workdir / "models" / "tiny"


@pytest.fixture
def tiny(tiny_folder: Path) -> LongVU:
    """With its default reserved text budget; tests may change its configuration."""
    model = load_video_model(tiny_folder)
    assert isinstance(model, LongVU)
    return model


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """55 s in four scenes, 4 frames a second."""
    return write_video(tmp_path_factory.mktemp("videos") / "scenes.mp4", [14, 13, 15, 13], size=(160, 96))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def watch(tiny_folder: Path, scenes: Path) -> Watcher:
    """The four scenes at so many frames a second, watched once per rate."""
    model, known = load_video_model(tiny_folder), {}

    def watched(fps: float) -> LongVUMedia:
        if fps not in known:
            known[fps] = model.watch(scenes, FrameSampling(fps=fps))
        return known[fps]

    return watched


def question(text: str, *kinds: str) -> list[dict[str, object]]:
    """A user's turn: media of these kinds, then the text."""
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]}]
