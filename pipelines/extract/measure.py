"""How many frames a source will give and what they will cost, before it is planned: from its headers where they tell.

Local files are read where they lie, objects on S3 by small ranges; only a long video whose container does not list its
frames (anything but MP4 and MOV) is read through.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from longvu_model.video import FrameSampling, VideoError, iter_frame_blocks, sample_indices
from longvu_model.video.pictures import is_picture
from longvu_model.video.stated import StatedVideo, read_stated
from pipelines import storage
from pipelines.extract.decode_cost import image_seconds, video_seconds
from pipelines.extract.plan import Extent
from pipelines.retry import retrying

_Indices = np.ndarray


def measure(uri: str, sampling: str, unit_frames: int) -> Extent:
    """The sampled frames of a source that is listed as a video, and the predicted seconds of decoding them.

    What the container states is enough to group short sources, even where it is only duration times rate. A longer
    one will be cut, so its frames are counted: by the table of an MP4 file, else by reading the packets.

    Args:
        sampling: text of the sampling rule.
        unit_frames: sampled frames above which a source is split.

    Returns:
        the extent; of no frames for a source that cannot be read, which decoding will then report.

    Raises:
        StorageError: the storage does not answer.
    """
    rule = FrameSampling.parse(sampling)
    try:
        return retrying(lambda: _measure(uri, rule, unit_frames))
    except storage.StorageError:
        raise
    except (VideoError, OSError, ValueError):
        return Extent(0)


def _measure(uri: str, rule: FrameSampling, unit_frames: int) -> Extent:
    with storage.local_or_ranged(uri) as source:
        if is_picture(source):
            count = len(iter_frame_blocks(source, rule).indices)
            return Extent(count, predicted_s=count * image_seconds(_size(source)))
        stated = read_stated(source)
        size_bytes = _size(source)
        indices = _stated_indices(stated, rule)
    if indices is None or (len(indices) > unit_frames and not stated.listed):
        indices = _counted_indices(uri, rule)
    predicted_s = video_seconds(stated, indices, size_bytes)
    if len(indices) <= unit_frames:
        return Extent(len(indices), predicted_s=predicted_s)
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    regular = rule.num_frames is None and rule.max_frames is None
    return Extent(len(indices), int(indices[0]), step, stated.avg_fps if regular else None, predicted_s)


def _stated_indices(stated: StatedVideo, rule: FrameSampling) -> _Indices | None:
    if stated.num_frames is None or stated.avg_fps is None:
        return None
    return sample_indices(stated.num_frames, stated.avg_fps, rule)


def _counted_indices(uri: str, rule: FrameSampling) -> _Indices:
    if storage.is_local(uri):
        return iter_frame_blocks(storage.local_path(uri), rule).indices
    with storage.open_input(uri) as file:
        return iter_frame_blocks(file, rule).indices


def _size(source: Path | BinaryIO) -> int:
    return os.path.getsize(source) if isinstance(source, Path) else source.seek(0, io.SEEK_END)
