"""Units of work: long sources split at window multiples, short ones grouped.

A unit's id is a pure function of the configuration's digest and of its members, so an attempt that is repeated, even
by another machine, writes the same commit. Plans are stored; a source that was planned once is not looked at again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.storage import StoredObject
from pipelines.store.schema import PLAN

FOLDER = "plan"
VIDEO = "video"
IMAGE = "image"

# A unit of many tiny sources would be slow to begin again after a kill.
MAX_MEMBERS = 64


@dataclass(frozen=True)
class Extent:
    """The sampled frames of a source: ``first_frame + i * step`` for i < ``count``, as far as its container tells.

    ``fps`` is the average rate that the decoder counts by; None for a source that cannot be split, because its rate is
    not known or because the sampling rule depends on its length.
    """

    count: int
    first_frame: int = 0
    step: int = 1
    fps: float | None = None


@dataclass(frozen=True)
class Member:
    """A source, or the part of one that lies between two sampled frames.

    Args:
        source: URI.
        size_bytes, version: as listed when it was planned.
        chunk, num_chunks: which part, of how many.
        first_sample: its first sampled frame, counted from the start of the source; a multiple of 16.
        start_s, end_s: the part as the decoder takes it, seconds at the average rate; None: from the start, to the
            end. The last part is open, because containers promise more or fewer frames than they hold.
        expected_samples: sampled frames of the part, by the container; None when nothing is known of it.
        total_samples: likewise of the whole source.
        kind: "video" or "image".
        retry: how often the source was taken out of quarantine.
        predicted_s: CPU-seconds that decoding it should take.
    """

    source: str
    size_bytes: int
    version: str
    chunk: int = 0
    num_chunks: int = 1
    first_sample: int = 0
    start_s: float | None = None
    end_s: float | None = None
    expected_samples: int | None = None
    total_samples: int | None = None
    kind: str = VIDEO
    retry: int = 0
    predicted_s: float = 0.0

    @property
    def identity(self) -> tuple[str, str]:
        """What makes a source the same source: its URI and version."""
        return self.source, self.version


@dataclass(frozen=True)
class Unit:
    """Members that are extracted and committed together."""

    unit_id: str
    members: tuple[Member, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        record: dict[str, Any] = json.loads(text)
        return cls(record["unit_id"], tuple(Member(**member) for member in record["members"]))


def plan_units(
    sources: Iterable[StoredObject], extents: Mapping[str, Extent | None], config_digest: str, unit_frames: int
) -> list[Unit]:
    """Cut and group sources.

    Args:
        sources: in the order in which they are grouped.
        extents: of each source by its URI; None where nothing is known, such a source is a unit of its own.
        config_digest: digest of the run's configuration.
        unit_frames: sampled frames per unit, a multiple of 16.
    """
    units: list[Unit] = []
    group: list[Member] = []
    group_frames = 0
    for source in sources:
        extent = extents.get(source.uri)
        if extent is None or extent.count > unit_frames:
            units += [_unit([part], config_digest) for part in _parts(source, extent, unit_frames)]
            continue
        if group and (group_frames + extent.count > unit_frames or len(group) == MAX_MEMBERS):
            units.append(_unit(group, config_digest))
            group, group_frames = [], 0
        group.append(_whole(source, extent))
        group_frames += extent.count
    return units + ([_unit(group, config_digest)] if group else [])


def _parts(source: StoredObject, extent: Extent | None, unit_frames: int) -> Iterator[Member]:
    whole = _whole(source, extent)
    if extent is None or extent.fps is None:
        yield whole
        return
    num_chunks = -(-extent.count // unit_frames)
    for chunk in range(num_chunks):
        first = chunk * unit_frames
        end = min(first + unit_frames, extent.count)
        yield dataclasses.replace(
            whole,
            chunk=chunk,
            num_chunks=num_chunks,
            first_sample=first,
            start_s=_seconds(extent, first) if chunk else None,
            # Just after the last frame: the decoder's rule for clips leaves out a video's very last frame.
            end_s=_seconds(extent, end - 1, 1) if chunk < num_chunks - 1 else None,
            expected_samples=end - first,
        )


def _whole(source: StoredObject, extent: Extent | None) -> Member:
    count = extent.count if extent else None
    return Member(source.uri, source.size_bytes, source.version, expected_samples=count, total_samples=count)


def _seconds(extent: Extent, sample: int, more_frames: int = 0) -> float:
    """Time of a sampled frame at the average rate, the inverse of the decoder's ``round(seconds * rate)``."""
    assert extent.fps is not None
    return (extent.first_frame + sample * extent.step + more_frames) / extent.fps


def _unit(members: Sequence[Member], config_digest: str) -> Unit:
    canonical = json.dumps([config_digest, [_described(member) for member in members]], separators=(",", ":"))
    return Unit(hashlib.blake2b(canonical.encode(), digest_size=10).hexdigest(), tuple(members))


def _described(member: Member) -> list[Any]:
    """What of a member decides the id of its unit: not predictions, which may change with the version of this code."""
    part = [member.first_sample, member.start_s, member.end_s]
    retry = [member.retry] if member.retry else []
    return [member.source, member.size_bytes, member.version, *part, member.kind, *retry]


def write_plan(store: str, run_id: str, units: Iterable[Unit]) -> None:
    """Record the units that a run adds, before any of them is begun."""
    rows = [{"unit_id": unit.unit_id, **dataclasses.asdict(member)} for unit in units for member in unit.members]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, PLAN), buffer, compression="zstd")
    storage.write_bytes(storage.join(store, FOLDER, f"{run_id}.parquet"), buffer.getvalue())


def read_plan(store: str) -> list[Unit]:
    """Every unit that was ever planned, in the order of planning; one that two runs planned comes once."""
    members: dict[str, list[Member]] = {}
    for item in storage.listing(storage.join(store, FOLDER)):
        rows = pq.read_table(storage.arrow_input(item.uri), columns=PLAN.names).to_pylist()
        planned: dict[str, list[Member]] = {}
        for row in rows:
            planned.setdefault(row.pop("unit_id"), []).append(Member(**row))
        members |= {unit_id: listed for unit_id, listed in planned.items() if unit_id not in members}
    return [Unit(unit_id, tuple(listed)) for unit_id, listed in members.items()]
