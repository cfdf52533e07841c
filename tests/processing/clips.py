"""Small videos written by PyAV for the tests."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def moving_frames(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A gradient that drifts and a square that moves: uint8 (num_frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for i, frame in enumerate(frames):
        for channel, speed in enumerate(rng.integers(1, 7, 3)):
            frame[..., channel] = (rows * 3 + columns * 2 + i * speed) % 256
        left = i % max(1, width - 4)
        frame[2:6, left : left + 4] = (250, 10, 10)
    return frames


def write_video(path: Path, frames: np.ndarray, fps: int) -> Path:
    """H.264 in MP4 with B-frames; the index comes first, so that a cut file still opens."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "12", "bf": "2", "crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
