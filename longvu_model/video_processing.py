"""Videos to model inputs: decoded by the exact decoder of :mod:`longvu_model.video`, sampled by its published rules.

Array and picture-list videos are taken as they are: their frames count as already sampled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from longvu_model.image_processing import TowerPixelsKwargs, TwoTowers, check_call
from longvu_model.media import Medium, load_image, local_path
from longvu_model.video import DecodedVideo, FrameSampling, decode_frames
from longvu_model.video.decode import Backend

_LOGGER = logging.getLogger(__name__)


class SamplingKwargs(TypedDict, total=False):
    """Fields of a video processor that fix which frames are shown, and the decoder."""

    fps: float | None
    num_frames: int | None
    max_frames: int | None
    decoder: str


class VideoKwargs(TowerPixelsKwargs, SamplingKwargs, total=False):
    """Fields of LongVU's video processor."""


class SampledVideoProcessor(BaseVideoProcessor):
    """Videos to model inputs, decoded and sampled here; a family says what pixels its towers take.

    Args:
        fps: frames to sample per second of video; unused where ``num_frames`` is set.
        num_frames: sample this many frames, evenly spread, instead.
        max_frames: upper limit on sampled frames.
        decoder: "pyav" or "decord".
        **kwargs: bookkeeping of the library.
    """

    def __init__(
        self,
        fps: float | None = 1.0,
        num_frames: int | None = None,
        max_frames: int | None = None,
        decoder: Backend = "pyav",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fps, self.num_frames, self.max_frames, self.decoder = fps, num_frames, max_frames, decoder
        self.sampling()

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """Model inputs of decoded media."""
        raise NotImplementedError

    def sampling(
        self,
        sampling: FrameSampling | str | None = None,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        max_frames: int | None = None,
    ) -> FrameSampling:
        """The rule frames are sampled by: ``sampling`` if given, otherwise this processor's, changed by the rest.

        Raises:
            ValueError: more than one of ``sampling``, ``fps`` and ``num_frames``, or a value out of range.
        """
        if sum(value is not None for value in (sampling, fps, num_frames)) > 1:
            raise ValueError(f"sampling={sampling}, fps={fps}, num_frames={num_frames}: give one of them")
        if sampling is not None:
            rule = FrameSampling.parse(sampling)
            return rule if max_frames is None else replace(rule, max_frames=max_frames)
        if fps is None and num_frames is None:
            fps, num_frames = self.fps, self.num_frames
        max_frames = self.max_frames if max_frames is None else max_frames
        return FrameSampling(fps=None if num_frames is not None else fps, num_frames=num_frames, max_frames=max_frames)

    def load(self, source: Any, sampling: FrameSampling | None = None) -> Medium:
        """One video as a medium; see :func:`load_video` for what can be given."""
        return load_video(source, sampling or self.sampling(), decoder=self.decoder)

    def preprocess(
        self,
        videos: Any,
        return_tensors: str | None = "pt",
        *,
        sampling: FrameSampling | str | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        max_frames: int | None = None,
        return_metadata: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of one video or a (nested) list of them, in order.

        Args:
            videos: see :func:`load_video`; a list of pictures is one video.
            return_tensors: "pt".
            sampling: a whole rule, instead of the processor's.
            fps: overrides the processor's.
            num_frames: overrides the processor's.
            max_frames: overrides the processor's.
            return_metadata: add ``video_metadata``, one entry per video: where its frames lie in time.
            **kwargs: none are known.

        Returns:
            See :meth:`media_inputs`.
        """
        check_call(return_tensors, kwargs)
        rule = self.sampling(sampling, fps=fps, num_frames=num_frames, max_frames=max_frames)
        media = [self.load(source, rule) for source in flatten_videos(videos)]
        inputs = BatchFeature(self.media_inputs(media))
        if return_metadata:
            inputs["video_metadata"] = [medium.metadata for medium in media]
        return inputs


class LongVUVideoProcessor(TwoTowers, SampledVideoProcessor):
    """Videos to model inputs; saved as ``video_preprocessor_config.json``."""

    valid_kwargs = VideoKwargs  # type: ignore[assignment]


def load_video(source: Any, sampling: FrameSampling, *, decoder: Backend = "pyav") -> Medium:
    """A video as a medium.

    Args:
        source: a local path, the file's bytes or a binary file object, decoded and sampled here; or frames that are
            already sampled: a :class:`DecodedVideo`, uint8 (T, H, W, 3) as an array or tensor, or a list of pictures.
        sampling: which frames to decode.
        decoder: "pyav" or "decord".

    Returns:
        the medium; its ``metadata`` says where the frames of a decoded video lie in time, and whether the file is
        ``truncated``, which is logged as a warning too: the frames are then those of its good prefix.

    Raises:
        VideoError: the file cannot be decoded; the subclass names why.
        ValueError: frames of another shape or dtype, or a source of another kind.
    """
    if isinstance(source, Medium):
        return source
    if isinstance(source, list | tuple):
        return Medium([load_image(frame) for frame in source], is_video=True)
    if isinstance(source, Tensor):
        source = source.cpu().numpy()
    if isinstance(source, np.ndarray):
        return Medium(source, is_video=True)
    if isinstance(source, str | Path):
        source = local_path(source)
    elif isinstance(source, bytearray | memoryview):
        source = bytes(source)
    elif not isinstance(source, DecodedVideo | bytes) and not hasattr(source, "read"):
        raise ValueError(
            f"a video of type {type(source).__name__}: give a path, bytes, uint8 (T, H, W, 3) or a list of pictures"
        )
    decoded = source if isinstance(source, DecodedVideo) else decode_frames(source, sampling, backend=decoder)
    if decoded.truncated:
        name = source if isinstance(source, str | Path) else "a video"
        _LOGGER.warning("%s is cut or damaged: %d frames of its good prefix", name, len(decoded.frames))
    metadata = {
        "frames_indices": decoded.indices.tolist(),
        "timestamps_s": decoded.pts_s.tolist(),
        "fps": decoded.fps,
        "duration_s": decoded.duration_s,
        "truncated": decoded.truncated,
    }
    return Medium(decoded.frames, is_video=True, metadata=metadata)


def flatten_videos(videos: Any) -> list[Any]:
    """Videos of one value, a list or nested lists, in order; a list of pictures or (H, W, 3) arrays is one video."""
    if not isinstance(videos, list | tuple):
        return [videos]
    first = videos[0] if videos else None
    if isinstance(first, Image.Image) or (isinstance(first, np.ndarray | Tensor) and first.ndim == 3):
        return [videos]
    return [video for part in videos for video in flatten_videos(part)]
