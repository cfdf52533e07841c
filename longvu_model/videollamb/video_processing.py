"""Videos to model inputs of VideoLLaMB: a number of frames, evenly spread (SEMANTICS section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from longvu_model.media import Medium
from longvu_model.tower_pixels import CLIP_MEAN, CLIP_STD
from longvu_model.video import FrameSampling
from longvu_model.video_processing import SampledVideoProcessor, SamplingKwargs
from longvu_model.videollamb.frame_selection import evenly_spaced, whole_windows
from longvu_model.videollamb.image_processing import MODEL_INPUT_NAMES, TowerPixelsKwargs, pixel_inputs


class VideoKwargs(TowerPixelsKwargs, SamplingKwargs, total=False):
    """Fields of the video processor."""

    random_flip: bool
    window: int | None


class VideoLLaMBVideoProcessor(SampledVideoProcessor):
    """Videos to model inputs; saved as ``video_preprocessor_config.json``.

    Args:
        size: input side of the towers in pixels.
        mean: per RGB channel, in [0, 1].
        std: per RGB channel.
        random_flip: mirror half of all videos, as the release does even when it answers.
        window: make frames whole windows of this many, as published semantics need: a short video shows some more
            than once, a sampling by rate is spread anew; ``None`` for frames as they are sampled.
        fps, num_frames, max_frames, decoder: see :class:`SampledVideoProcessor`; 16 frames by default.
        **kwargs: bookkeeping of the library.
    """

    valid_kwargs = VideoKwargs  # type: ignore[assignment]
    model_input_names = MODEL_INPUT_NAMES

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        random_flip: bool = False,
        window: int | None = None,
        fps: float | None = None,
        num_frames: int | None = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(fps=fps, num_frames=num_frames, **kwargs)
        self.size, self.mean, self.std = size, list(mean), list(std)
        self.random_flip, self.window = random_flip, window

    def load(self, source: Any, sampling: FrameSampling | None = None) -> Medium:
        """One video as a medium; see :func:`longvu_model.video_processing.load_video` for what can be given."""
        rule = sampling or self.sampling()
        medium = super().load(source, rule)
        if self.window is None:
            return medium
        found = len(medium.frames)
        shown = evenly_spaced(found, whole_windows(rule.num_frames or found, self.window))
        metadata = None
        if medium.metadata is not None:
            metadata = {
                **medium.metadata,
                "frames_indices": [medium.metadata["frames_indices"][i] for i in shown],
                "timestamps_s": [medium.metadata["timestamps_s"][i] for i in shown],
            }
        frames: Any = medium.frames
        chosen = frames[shown] if hasattr(frames, "dtype") else [frames[i] for i in shown]
        return replace(medium, frames=chosen, metadata=metadata)

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """See :func:`pixel_inputs`."""
        return pixel_inputs(media, self.size, self.mean, self.std, random_flip=self.random_flip)
