"""What the finished units of a store took and gave: the best prediction for the ones to come."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.extract.plan import read_plan
from pipelines.store.commits import committed_units
from pipelines.store.reader import FeatureStore


@dataclass(frozen=True)
class History:
    """What the store's finished units took.

    Args:
        slowness: seconds of decoding over predicted ones.
        encode_s_per_frame: busy seconds per sampled frame; None without any.
        stored_fraction: frames with features, of the sampled ones.
        bytes_per_stored_frame: size of the store by frame with features.
    """

    slowness: float = 1.0
    encode_s_per_frame: float | None = None
    stored_fraction: float | None = None
    bytes_per_stored_frame: float | None = None


def read_history(store: str) -> History:
    """The history of a store; an empty one if it has none, or no frame."""
    done = committed_units(store)
    if not done:
        return History()
    stats = FeatureStore.open(store).stats()
    planned = read_plan(store)
    finished = planned.filter(pc.is_in(planned["unit_id"], pa.array(done, pa.string())))
    predicted_s = pc.sum(finished["predicted_s"]).as_py() or 0.0
    if not stats.sampled or not stats.stored or not predicted_s:
        return History()
    return History(
        slowness=stats.seconds["decode"] / predicted_s,
        encode_s_per_frame=stats.seconds["encode"] / stats.sampled,
        stored_fraction=stats.stored / stats.sampled,
        bytes_per_stored_frame=(stats.frames_bytes + stats.videos_bytes) / stats.stored,
    )
