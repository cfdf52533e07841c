"""Files that users hand to commands, and a real video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.pipelines.conftest import write_video


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of 10 s at 4 fps."""
    return write_video(tmp_path_factory.mktemp("videos") / "scenes.mp4", [10, 10, 10, 10])


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_VIDEOS: dict[str, Callable[[Path], object]] = {
    "missing.mp4": lambda path: None,
    "empty.mp4": lambda path: path.touch(),
    "text.mp4": lambda path: path.write_text("This is a shopping list.\n" * 50),
    "audio.mp4": write_audio,
    "folder.mp4": lambda path: path.mkdir(),
}


@pytest.fixture(params=BAD_VIDEOS)
def bad_video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    BAD_VIDEOS[request.param](path)
    return path


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Commands build the tiny preset once, away from the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
