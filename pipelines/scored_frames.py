"""Sampled frames of one video with their window similarities: from the video itself, or from a feature store.

For looking at (:mod:`pipelines.contact_sheet`): frames are thumbnails. Extraction at scale is elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from longvu_model.frame_selection import WINDOW_FRAMES, keep_frames, window_similarity
from longvu_model.video import FrameSampling, iter_frame_blocks
from pipelines import storage
from pipelines.store import FeatureStore, StoreError
from pipelines.store.schema import SELECTING

if TYPE_CHECKING:
    from longvu_model.towers import DinoTower

THUMBNAIL_PX = 240


@dataclass(frozen=True)
class ScoredFrames:
    """T sampled frames of a video.

    Attributes:
        frames: thumbnails, RGB, at most ``THUMBNAIL_PX`` wide and high.
        times_s: float64 (T,), seconds.
        similarity: float32 (T,), mean cosine to the window, 0 at its centre.
        kept: bool (T,), similarity below ``threshold``.
        damage: what is wrong with a file of which these frames are the good prefix; None for a whole one.
    """

    frames: list[Image.Image]
    times_s: NDArray[np.float64]
    similarity: NDArray[np.float32]
    kept: NDArray[np.bool_]
    threshold: float
    damage: str | None = None


@torch.inference_mode()
def score_video(
    source: str | Path | bytes | BinaryIO,
    tower: DinoTower,
    sampling: FrameSampling | str = "fps:1",
    *,
    threshold: float = 0.83,
) -> ScoredFrames:
    """Decode a video, show its frames to DINOv2 and compare them window by window; memory holds one window.

    Raises:
        VideoError: the video cannot be decoded.
        ValueError: the sampling rule does not fit the video.
    """
    from longvu_model.image_processing import preprocess_frames  # seconds, which stored frames do not need

    thumbnails: list[Image.Image] = []
    times_s: list[NDArray[np.float64]] = []
    stream = iter_frame_blocks(source, FrameSampling.parse(sampling), block_frames=WINDOW_FRAMES)

    def features() -> Iterator[torch.Tensor]:
        device = tower.patch.weight.device
        for block in stream:
            pixels = preprocess_frames(block.frames, tower.image_size, tower.image_mean, tower.image_std)
            thumbnails.extend(map(thumbnail, block.frames))
            times_s.append(block.pts_s)
            yield from tower(pixels.to(device)).unbind()

    similarity = torch.cat([window_similarity(torch.stack(window)).cpu() for window in _windows(features())])
    kept = keep_frames(similarity, threshold)
    return ScoredFrames(
        thumbnails, np.concatenate(times_s), similarity.numpy(), kept.numpy(), threshold, stream.summary.damage
    )


def stored_frames(store: FeatureStore, video_id: str, *, threshold: float = 0.83) -> ScoredFrames:
    """The same from a store: similarities as stored, thumbnails as stored or else decoded again from the source.

    Raises:
        StoreError: the video is not in the store or failed, or its source has changed since; or the store has no
            similarities.
        VideoError: thumbnails are not stored and the source cannot be decoded.
    """
    store.require(SELECTING, "Scoring frames")
    columns = ["frame_index", "pts_s", "similarity"]
    table = store.frames(video_id, [*columns, "jpeg"] if store.manifest.jpeg else columns)
    frame_index, times_s, similarity = (table[name].to_numpy() for name in columns)
    row = store.row(video_id)
    if store.manifest.jpeg:
        pictures = [thumbnail(Image.open(io.BytesIO(data))) for data in table["jpeg"].to_pylist()]
    else:
        pictures = _decoded_thumbnails(row["source"], str(store.manifest.config["sampling"]), frame_index)
    kept = keep_frames(torch.tensor(similarity), threshold).numpy()
    return ScoredFrames(pictures, times_s, similarity, kept, threshold, row["message"])


def thumbnail(picture: Image.Image | NDArray[np.uint8]) -> Image.Image:
    small = (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return small


def _windows(features: Iterator[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    window: list[torch.Tensor] = []
    for feature in features:
        window.append(feature)
        if len(window) == WINDOW_FRAMES:
            yield window
            window = []
    if window:
        yield window


def _decoded_thumbnails(source: str, sampling: str, frame_index: NDArray[np.int64]) -> list[Image.Image]:
    thumbnails: list[Image.Image] = []
    indices: list[int] = []
    with storage.local_copy(source) as path:
        for block in iter_frame_blocks(path, FrameSampling.parse(sampling), block_frames=WINDOW_FRAMES):
            thumbnails.extend(map(thumbnail, block.frames))
            indices.extend(block.indices.tolist())
    if indices != frame_index.tolist():
        raise StoreError(
            f"{storage.shown(source)}: has other frames ({len(indices)} sampled) than when it was extracted "
            f"({len(frame_index)}); extract it again"
        )
    return thumbnails
