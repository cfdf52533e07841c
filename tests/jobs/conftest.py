"""Files that users hand to commands, and a real video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s at 5 fps, 128x72: four scenes of drifting colour blobs."""
    path = tmp_path_factory.mktemp("videos") / "scenes.mp4"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:72, 0:128]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for _ in range(4):
            centres, colours = rng.uniform(0, [128, 72], (6, 2)), rng.uniform(0, 255, (6, 3))
            for step in range(50):
                weights = np.exp(-(((x[..., None] - centres[:, 0] - 0.1 * step) ** 2 + (y[..., None] - centres[:, 1]) ** 2) / 600))
                picture = (weights @ colours / (weights.sum(-1, keepdims=True) + 1e-3)).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


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
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands build the tiny preset once, away from the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
