"""Small pictures of the frames that the model saw, from the video file itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from longvu_model.video import FrameSampling
from longvu_model.video.supervised import supervised_blocks
from pipelines.serve.guard import MediaPolicy

_SIDE_PX = 192
_JPEG_QUALITY = 80
# Times have travelled as text; frames are never so close.
_SAME_S = 1e-6


@dataclass(frozen=True)
class Still:
    """A frame as JPEG, and its time in seconds."""

    time_s: float
    jpeg: bytes


def filmstrip(
    path: Path, times_s: Sequence[float], num_sampled: int, policy: MediaPolicy, most: int = 48
) -> list[Still]:
    """The frames shown at ``times_s``, at most ``most`` of them, evenly chosen.

    Args:
        num_sampled: how many frames there were to choose from. The rule that gave them is not known here: the usual
            ones are tried first, and then every frame.
        policy: its limits on decoding count here too.

    Raises:
        VideoError: the file cannot be decoded.
    """
    if not times_s:
        return []
    wanted = np.asarray(times_s)[np.linspace(0, len(times_s) - 1, min(most, len(times_s))).round().astype(int)]
    stills: list[Still] = []
    for rule in (FrameSampling(fps=1), FrameSampling(num_frames=max(1, num_sampled)), FrameSampling(fps=1000)):
        stills = _stills(path, wanted, rule, policy)
        if len(stills) == len(wanted):
            break
    return stills


def _stills(path: Path, wanted_s: np.ndarray, rule: FrameSampling, policy: MediaPolicy) -> list[Still]:
    stream = supervised_blocks(
        path,
        rule,
        deadline_s=policy.decode_timeout_s,
        max_pixels=policy.max_pixels,
        memory_bytes=policy.decode_memory_bytes,
        squares=[(_SIDE_PX, (0, 0, 0))],
        whole=False,
    )
    found: dict[float, np.ndarray] = {}
    for block in stream:
        for time_s, square in zip(block.pts_s.tolist(), block.squares[0], strict=True):
            if np.abs(wanted_s - time_s).min() < _SAME_S:
                found[time_s] = square
    width, height = stream.summary.width, stream.summary.height
    return [Still(time_s, _jpeg(square, width, height)) for time_s, square in found.items()]


def _jpeg(square: np.ndarray, width: int, height: int) -> bytes:
    """A padded square (S, S, 3) without its padding."""
    longest = max(width, height)
    inner_width, inner_height = (max(1, round(_SIDE_PX * edge / longest)) for edge in (width, height))
    left, top = (_SIDE_PX - inner_width) // 2, (_SIDE_PX - inner_height) // 2
    picture = Image.fromarray(square).crop((left, top, left + inner_width, top + inner_height))
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=_JPEG_QUALITY)
    return packed.getvalue()
