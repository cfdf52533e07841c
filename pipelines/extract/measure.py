"""How many frames a source will give, before it is planned: from its container, without decoding it."""

from __future__ import annotations

from longvu_model.video import FrameSampling, VideoError, iter_frame_blocks, probe, sample_indices
from pipelines import storage
from pipelines.extract.plan import Extent


def measure(uri: str, sampling: str, unit_frames: int, scratch: str | None = None) -> Extent:
    """The sampled frames of a source.

    What the container states is enough to group short sources. A longer one will be cut, so its packets are counted:
    containers also list frames that are never shown.

    Args:
        sampling: text of the sampling rule.
        unit_frames: sampled frames above which a source is split.
        scratch: folder for downloads.

    Returns:
        the extent; of no frames for a source that cannot be read, which decoding will then report.
    """
    rule = FrameSampling.parse(sampling)
    try:
        with storage.local_copy(uri, scratch) as path:
            info = probe(path)
            if info.num_frames is not None and info.avg_fps is not None:
                count = len(sample_indices(info.num_frames, info.avg_fps, rule))
                if count <= unit_frames:
                    return Extent(count)
            indices = iter_frame_blocks(path, rule).indices
    except (VideoError, OSError, ValueError):
        return Extent(0)
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    regular = rule.num_frames is None and rule.max_frames is None
    return Extent(len(indices), int(indices[0]), step, info.avg_fps if regular else None)
