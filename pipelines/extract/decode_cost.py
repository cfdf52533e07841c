"""What decoding will cost, in CPU-seconds, from what headers and listings tell: for balancing and for estimates.

Linear in what decoding does: pixels of the frames it must go through (by codec) and their bytes, pixels and number of
the sampled frames (conversion, transport, resizing), packets that are only looked at, and a constant. Frames to go
through are those from each key frame to the last sampled one that depends on it; where the container has no table of
key frames, one every 250 frames is assumed.

The coefficients were fitted to the CPU time of ``decode_unit`` over some forty files of six codecs at three sampling
rates. ``tests/benchmarks/decode_cost.py`` prints how far off they are: a tenth in the middle, a third for nine of ten,
three times at worst (short groups of pictures that are not listed). Another processor is slower or faster by a common
factor, which matters to estimates and not to balance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from longvu_model.video.stated import StatedVideo

_MS_PER_MEGAPIXEL = {"h264": 0.40, "hevc": 0.46, "av1": 0.48, "vp9": 0.97}
_MS_PER_MEGAPIXEL_ELSE = 0.40
_MS_PER_MEGABYTE = 22.0
_MS_PER_SAMPLED_MEGAPIXEL = 14.0
_MS_PER_SAMPLED_FRAME = 1.9
_MS_PER_PACKET = 0.009
_MS_PER_VIDEO = 9.0
# Compressed, because the size in pixels is not known before the file is opened. JPEG and PNG differ by two either way.
_MS_PER_IMAGE = 3.0
_MS_PER_IMAGE_MEGABYTE = 150.0

_ASSUMED_GROUP_FRAMES = 250
# Codecs of which the decoder knows where it may begin; others are decoded from the start to the last sampled frame.
_WITH_ENTRIES = frozenset(("h264", "hevc"))
_INTRA_ONLY = frozenset(("mjpeg", "ffv1", "prores", "dnxhd", "rawvideo"))


def video_seconds(stated: StatedVideo, indices_T: np.ndarray, size_bytes: int) -> float:
    """CPU-seconds of decoding the sampled frames ``indices_T`` of a video."""
    through = frames_gone_through(stated, indices_T)
    num_frames = max(stated.num_frames or 0, int(indices_T.max(initial=-1)) + 1)
    megapixels = stated.width * stated.height / 1e6
    megabytes = size_bytes / 1e6 * through / max(num_frames, 1)
    return 1e-3 * (
        _MS_PER_MEGAPIXEL.get(stated.codec, _MS_PER_MEGAPIXEL_ELSE) * through * megapixels
        + _MS_PER_MEGABYTE * megabytes
        + (_MS_PER_SAMPLED_MEGAPIXEL * megapixels + _MS_PER_SAMPLED_FRAME) * len(indices_T)
        + _MS_PER_PACKET * num_frames
        + _MS_PER_VIDEO
    )


def image_seconds(size_bytes: int) -> float:
    """CPU-seconds of decoding a picture."""
    return 1e-3 * (_MS_PER_IMAGE + _MS_PER_IMAGE_MEGABYTE * size_bytes / 1e6)


def frames_gone_through(stated: StatedVideo, indices_T: np.ndarray) -> int:
    """Frames from each key frame to the last sampled one before the next, both included."""
    if not len(indices_T):
        return 0
    last = int(indices_T[-1])
    if stated.codec in _INTRA_ONLY:
        return len(indices_T)
    if stated.codec not in _WITH_ENTRIES:
        return last + 1
    keyframes = stated.keyframes if stated.keyframes is not None else np.arange(0, last + 1, _ASSUMED_GROUP_FRAMES)
    group_T = np.searchsorted(keyframes, indices_T, "right") - 1
    last_of_group = np.append(np.flatnonzero(np.diff(group_T)), len(indices_T) - 1)
    begins = np.where(group_T < 0, 0, keyframes[group_T])[last_of_group] if len(keyframes) else 0
    return int((indices_T[last_of_group] - begins + 1).sum())
