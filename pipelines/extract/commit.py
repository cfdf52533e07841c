"""From an encoded unit to the rows of the store's two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.extract.stage_columns import columns_of
from pipelines.extract.stages import FrameStage
from pipelines.store.features import FeatureSpec, content_digest, encode
from pipelines.store.schema import VIDEOS, WINDOW_FRAMES, frames_schema

_PER_FRAME = ("frame_index", "pts_s", "similarity", "kept", "stored")


def unit_tables(
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    specs: tuple[FeatureSpec, ...],
    stages: Sequence[FrameStage] = (),
) -> tuple[pa.Table, pa.Table]:
    """Frames and videos rows of what :func:`pipelines.extract.encode.encode_unit` gave, with the columns of stages.

    A second copy of a video inside the unit has a videos row, but no frames rows of its own.
    """
    counts = [member["num_sampled"] for member in header["members"]]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _frames(header, arrays, specs, stages, starts), _videos(header, arrays, specs, starts)


def _frames(
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    specs: tuple[FeatureSpec, ...],
    stages: Sequence[FrameStage],
    starts: np.ndarray,
) -> pa.Table:
    counts = np.diff(starts)
    members = header["members"]
    windows = [
        (member["first_sample"] + np.arange(count)) // WINDOW_FRAMES
        for member, count in zip(members, counts, strict=True)
    ]
    columns = {
        "video_id": pa.array([member["video_id"] for member in members], pa.string()).take(
            pa.array(np.repeat(np.arange(len(members)), counts))
        ),
        "frame_index": pa.array(arrays["frame_index"]),
        "pts_s": pa.array(arrays["pts_s"]),
        "window": pa.array(np.concatenate([np.empty(0, np.int64), *windows]), pa.int32()),
        "similarity": pa.array(arrays["similarity"]) if "similarity" in arrays else pa.nulls(sum(counts), pa.float32()),
        "kept": pa.array(arrays["kept"]) if "kept" in arrays else pa.nulls(sum(counts), pa.bool_()),
    }
    for spec in specs:
        columns[spec.name] = encode(arrays[spec.name], arrays["stored"], spec)
    if "jpeg" in arrays:
        offsets = np.concatenate([[0], np.cumsum(arrays["jpeg_bytes"])]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(arrays["jpeg"]))]
        columns["jpeg"] = pa.Array.from_buffers(pa.binary(), len(arrays["jpeg_bytes"]), buffers)
    for stage in stages:
        columns |= columns_of(arrays, stage)
    schema = frames_schema(specs, jpeg="jpeg" in arrays, stages=[stage.columns for stage in stages])
    table = pa.table(columns, schema=schema)
    first_copy = np.repeat([_is_first(members, position) for position in range(len(members))], counts)
    return table if first_copy.all() else table.filter(pa.array(first_copy))


def _is_first(members: list[dict[str, Any]], position: int) -> bool:
    video_id = members[position]["video_id"]
    return all(member["video_id"] != video_id or not member["num_sampled"] for member in members[:position])


def _videos(
    header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specs: tuple[FeatureSpec, ...], starts: np.ndarray
) -> pa.Table:
    rows = []
    for member, first, last in zip(header["members"], starts[:-1], starts[1:], strict=True):
        row = {name: member.get(name) for name in VIDEOS.names} | {"unit_id": header["unit_id"]}
        row |= {name: arrays[name][first:last] for name in _PER_FRAME if name in arrays}
        if first < last:
            row |= {f"{spec.name}_digest": _digest(arrays, spec, first, last) for spec in specs}
        rows.append(row)
    return pa.Table.from_pylist(rows, VIDEOS)


def _digest(arrays: Mapping[str, np.ndarray], spec: FeatureSpec, first: int, last: int) -> str:
    stored = arrays["stored"]
    before, within = np.count_nonzero(stored[:first]), stored[first:last]
    raw_FB = arrays[spec.name][before : before + np.count_nonzero(within)]
    return content_digest(raw_FB, arrays["frame_index"][first:last][within])
