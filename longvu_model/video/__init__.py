"""Videos in, sampled RGB frames out: exact, sparse, safe. See ``decode.py`` first."""

from __future__ import annotations

from longvu_model.video.decode import FrameStream, decode_frames, iter_frame_blocks
from longvu_model.video.errors import (
    VIDEO_ERRORS,
    Corrupt,
    Forbidden,
    Missing,
    NotAVideo,
    Timeout,
    TooLarge,
    Truncated,
    Unsupported,
    VideoError,
)
from longvu_model.video.frames import DecodedVideo, DecodeSummary, FrameBlock
from longvu_model.video.probe import VideoInfo, probe
from longvu_model.video.sampling import PUBLISHED_SAMPLING, FrameSampling, folder_frame_numbers, sample_indices

__all__ = [
    "PUBLISHED_SAMPLING",
    "VIDEO_ERRORS",
    "Corrupt",
    "DecodeSummary",
    "DecodedVideo",
    "Forbidden",
    "FrameBlock",
    "FrameSampling",
    "FrameStream",
    "Missing",
    "NotAVideo",
    "Timeout",
    "TooLarge",
    "Truncated",
    "Unsupported",
    "VideoError",
    "VideoInfo",
    "decode_frames",
    "folder_frame_numbers",
    "iter_frame_blocks",
    "probe",
    "sample_indices",
]
