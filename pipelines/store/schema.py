"""The columns of the store's tables; part of the format, so a change here is a new format version."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.store.features import FeatureSpec

FORMAT = "longvu-feature-store"
FORMAT_VERSION = 2
# Of stores without DINOv2, whose frames have no similarity and which readers of version 2 cannot use.
FORMAT_VERSION_UNSELECTED = 3

SELECTING = "dinov2"
"""The feature that frame selection looks at."""

OK = "ok"
TRUNCATED = "truncated"
FAILED = "failed"

# The same as longvu_model.frame_selection's, which cannot be imported without torch.
WINDOW_FRAMES = 16

# Two windows: what selection looks at, and enough to be worth a request.
ROWS_PER_GROUP = 2 * WINDOW_FRAMES


def _table(**columns: tuple[pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"about": about}) for name, (kind, about) in columns.items()])


PLAN = _table(
    unit_id=(pa.string(), "the atom of work: a pure function of the configuration and of its members"),
    source=(pa.string(), "uri"),
    size_bytes=(pa.int64(), "size when the plan was made"),
    version=(pa.string(), "etag or modification time when the plan was made"),
    chunk=(pa.int32(), "which part of the source"),
    num_chunks=(pa.int32(), "parts of the source"),
    first_sample=(pa.int64(), "ordinal of the part's first sampled frame"),
    start_s=(pa.float64(), "start of the part, seconds at the average frame rate; null: the source's"),
    end_s=(pa.float64(), "end of the part, likewise; null: the source's"),
    expected_samples=(pa.int64(), "sampled frames of the part that the container promises; null: unknown"),
    total_samples=(pa.int64(), "likewise of the whole source"),
    kind=(pa.string(), "video or image"),
    retry=(pa.int32(), "how often the source was taken out of quarantine"),
    predicted_s=(pa.float64(), "seconds that decoding the part was expected to take"),
)

VIDEOS = _table(
    video_id=(pa.string(), "sha256 of the bytes; null when they could not be read"),
    source=(pa.string(), "uri"),
    size_bytes=(pa.int64(), "size of the source"),
    version=(pa.string(), "etag or modification time of the source"),
    unit_id=(pa.string(), "unit that wrote the row"),
    chunk=(pa.int32(), "which part of the source"),
    num_chunks=(pa.int32(), "parts of the source"),
    first_sample=(pa.int64(), "ordinal of the part's first sampled frame"),
    status=(pa.string(), "ok, truncated (a good prefix) or failed"),
    error=(pa.string(), "class of the error; null when ok"),
    message=(pa.string(), "the error in one line; null when ok"),
    log_tail=(pa.string(), "last lines that the decoder logged; null when ok"),
    attempts=(pa.int32(), "how often decoding was tried"),
    retry=(pa.int32(), "how often the source was taken out of quarantine before; null means 0"),
    kind=(pa.string(), "video or image"),
    decoder=(pa.string(), "what decoded the frames: pyav or decord"),
    codec=(pa.string(), "video codec"),
    width=(pa.int32(), "pixels, after rotation"),
    height=(pa.int32(), "pixels, after rotation"),
    fps=(pa.float64(), "average frame rate of the container"),
    duration_s=(pa.float64(), "seconds"),
    num_sampled=(pa.int32(), "sampled frames"),
    num_kept=(pa.int32(), "of these, below the similarity threshold of store.json; null without dinov2"),
    num_stored=(pa.int32(), "of these, with features"),
    frame_index=(pa.list_(pa.int64()), "position in the video of every sampled frame"),
    pts_s=(pa.list_(pa.float64()), "time of every sampled frame, seconds"),
    similarity=(pa.list_(pa.float32()), "DINOv2 window similarity of every sampled frame; null without dinov2"),
    kept=(pa.list_(pa.bool_()), "of every sampled frame: similarity below the threshold of store.json; null likewise"),
    stored=(pa.list_(pa.bool_()), "of every sampled frame: whether it has features"),
    dinov2_digest=(pa.string(), "digest of the stored dinov2 numbers: sum of SHA-256 halves per frame"),
    siglip_digest=(pa.string(), "digest of the stored siglip numbers, likewise"),
    eva_digest=(pa.string(), "digest of the stored eva numbers, likewise"),
    languagebind_digest=(pa.string(), "digest of the stored languagebind numbers, likewise"),
)

_FILE = pa.struct([("path", pa.string()), ("sha256", pa.string()), ("size_bytes", pa.int64()), ("rows", pa.int64())])

COMMITS = _table(
    unit_id=(pa.string(), "the unit that is finished"),
    frames=(_FILE, "its rows of the frames table"),
    videos=(_FILE, "where its rows of the videos table are, among those of other units"),
    video_ids=(pa.list_(pa.string()), "video_id of each of its sources"),
    counts=(pa.map_(pa.string(), pa.int64()), "sources by status, and frames sampled, kept and stored"),
    errors=(pa.map_(pa.string(), pa.int64()), "failed sources by class of error"),
    seconds=(pa.map_(pa.string(), pa.float64()), "busy time by stage"),
    run_id=(pa.string(), "run that did the work"),
    code_version=(pa.string(), "version of longvu-ray that did the work"),
    committed_at=(pa.string(), "UTC, ISO 8601"),
)


@dataclass(frozen=True)
class StageColumns:
    """What a user's stage adds to the frames table.

    Args:
        name: of the stage.
        call: dotted name of what it calls.
        version: changes when the same call gives other values.
        columns: that it fills, one value per sampled frame.
    """

    name: str
    call: str
    version: str
    columns: tuple[pa.Field, ...]

    def to_json(self) -> dict[str, Any]:
        """As in ``store.json``, under the stage's name."""
        columns = {field.name: str(field.type) for field in self.columns}
        return {"call": self.call, "version": self.version, "columns": columns}

    @classmethod
    def from_json(cls, name: str, record: dict[str, Any]) -> StageColumns:
        """Read :meth:`to_json` back."""
        columns = tuple(pa.field(column, arrow_type(text)) for column, text in record["columns"].items())
        return cls(name, record["call"], record["version"], columns)


_LIST = re.compile(r"list<(?:\w+: )?(.+)>")


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type that prints as ``text``: a plain type's name, or a list of one.

    Raises:
        ValueError: there is no such type.
    """
    values = _LIST.fullmatch(text)
    return pa.list_(arrow_type(values[1])) if values else pa.type_for_alias(text)


def frames_schema(features: Iterable[FeatureSpec], *, jpeg: bool, stages: Iterable[StageColumns] = ()) -> pa.Schema:
    """Columns of the frames table: one row per sampled frame, features null where they are not stored.

    Raises:
        ValueError: a stage's column has the name of another column.
    """
    columns = _table(
        video_id=(pa.string(), "sha256 of the source's bytes"),
        frame_index=(pa.int64(), "position of the frame in the video"),
        pts_s=(pa.float64(), "time of the frame, seconds"),
        window=(pa.int32(), "which window of 16 sampled frames, counted from the start of the video"),
        similarity=(pa.float32(), "mean cosine to the window, 0 at its centre frame; null without dinov2"),
        kept=(pa.bool_(), "similarity below the threshold of store.json; null without dinov2"),
    )
    for spec in features:
        columns = columns.append(spec.field())
    if jpeg:
        columns = columns.append(pa.field("jpeg", pa.binary(), metadata={"about": "thumbnail"}))
    for stage in stages:
        for field in stage.columns:
            if field.name in columns.names:
                raise ValueError(f"stage {stage.name}: column {field.name!r} exists already; give it another name")
            columns = columns.append(field.with_metadata({"about": f"stage {stage.name}"}))
    return columns
