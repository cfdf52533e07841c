"""Units of work: long videos split at window multiples, short ones and images grouped, none much longer than others.

A unit's id is a pure function of the configuration's digest and of its members, so an attempt that is repeated, even
by another machine, writes the same commit. Plans are stored; a source that was planned once is not looked at again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.extract.decode_cost import image_seconds
from pipelines.extract.index import IMAGE, VIDEO, Source
from pipelines.store.schema import PLAN

FOLDER = "plan"

# Of short videos, any of which may turn out to be bad and slow. Images are only limited by their number of frames.
MAX_VIDEOS = 64
# Short videos are grouped up to so many predicted CPU-seconds: what a kill may cost, and the end of a run wait for.
MAX_UNIT_S = 60.0
_READERS = 16


@dataclass(frozen=True)
class Extent:
    """The sampled frames of a source: ``first_frame + i * step`` for i < ``count``, as far as its container tells.

    ``fps`` is the average rate that the decoder counts by; None for a source that cannot be split, because its rate is
    not known or because the sampling rule depends on its length. ``predicted_s``: CPU-seconds that decoding all of it
    should take.
    """

    count: int
    first_frame: int = 0
    step: int = 1
    fps: float | None = None
    predicted_s: float = 0.0


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

    @property
    def predicted_s(self) -> float:
        """CPU-seconds that decoding all members should take."""
        return sum(member.predicted_s for member in self.members)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        record: dict[str, Any] = json.loads(text)
        return cls(record["unit_id"], tuple(Member(**member) for member in record["members"]))


def plan_units(
    sources: Iterable[Source], extents: Mapping[str, Extent | None], config_digest: str, unit_frames: int
) -> list[Unit]:
    """Cut and group sources.

    Args:
        sources: in the order in which they are grouped.
        extents: of each video by its URI; None where nothing is known, such a source is a unit of its own. Images
            need none.
        config_digest: digest of the run's configuration.
        unit_frames: sampled frames per unit, a multiple of 16.

    Returns:
        units, the most expensive first.
    """
    units: list[Unit] = []
    groups = {VIDEO: _Group(MAX_VIDEOS, unit_frames), IMAGE: _Group(unit_frames, unit_frames)}
    for source in sources:
        extent = _image_extent(source) if source.kind == IMAGE else extents.get(source.uri)
        if extent is None or extent.count > unit_frames:
            units += [_unit([part], config_digest) for part in _parts(source, extent, unit_frames)]
            continue
        group, member = groups[source.kind], _whole(source, extent)
        if not group.has_room_for(member):
            units.append(_unit(group.take(), config_digest))
        group.add(member)
    return by_cost([*units, *(_unit(group.take(), config_digest) for group in groups.values() if group.members)])


def by_cost(units: Iterable[Unit]) -> list[Unit]:
    """Units in the order in which they should be begun: the most expensive first, so that all workers end together.

    Before them come sources that could not be measured, which may take until their deadline.
    """
    return sorted(units, key=lambda unit: (all(_is_known(member) for member in unit.members), -unit.predicted_s))


def _is_known(member: Member) -> bool:
    return member.expected_samples is not None


class _Group:
    """Short sources on their way to become a unit."""

    def __init__(self, max_members: int, max_frames: int):
        self._max_members, self._max_frames = max_members, max_frames
        self.members: list[Member] = []
        self._frames, self._predicted_s = 0, 0.0

    def has_room_for(self, member: Member) -> bool:
        return not self.members or (
            len(self.members) < self._max_members
            and self._frames + (member.expected_samples or 0) <= self._max_frames
            and self._predicted_s + member.predicted_s <= MAX_UNIT_S
        )

    def add(self, member: Member) -> None:
        self.members.append(member)
        self._frames += member.expected_samples or 0
        self._predicted_s += member.predicted_s

    def take(self) -> list[Member]:
        members, self.members, self._frames, self._predicted_s = self.members, [], 0, 0.0
        return members


def _image_extent(source: Source) -> Extent:
    return Extent(1, predicted_s=image_seconds(source.size_bytes))


def _parts(source: Source, extent: Extent | None, unit_frames: int) -> Iterator[Member]:
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
            predicted_s=extent.predicted_s * (end - first) / extent.count,
        )


def _whole(source: Source, extent: Extent | None) -> Member:
    count = extent.count if extent else None
    return Member(
        source.uri,
        source.size_bytes,
        source.version,
        expected_samples=count,
        total_samples=count,
        kind=source.kind,
        retry=source.retry,
        predicted_s=extent.predicted_s if extent else 0.0,
    )


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
    members = [(unit.unit_id, member) for unit in units for member in unit.members]
    columns = {name: [getattr(member, name) for _, member in members] for name in PLAN.names if name != "unit_id"}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"unit_id": [unit_id for unit_id, _ in members]} | columns, PLAN), buffer, compression="zstd"
    )
    storage.write_bytes(storage.join(store, FOLDER, f"{run_id}.parquet"), buffer.getvalue())


def read_plan(store: str) -> pa.Table:
    """All that was ever planned, as rows of the store's plan: members, in the order of planning.

    Rows, because a hundred thousand units are not worth building when a few are wanted: see :func:`units_of`.
    """

    def read(item: storage.StoredObject) -> pa.Table:
        with storage.arrow_input(item.uri) as file:
            return pq.read_table(file, schema=PLAN)

    with ThreadPoolExecutor(_READERS) as readers:
        tables = readers.map(read, storage.listing(storage.join(store, FOLDER)))
        return pa.concat_tables([PLAN.empty_table(), *tables])


def units_of(rows: pa.Table) -> list[Unit]:
    """The units of rows of a plan, in their order; one that two runs planned comes once."""
    members: dict[str, dict[tuple[str, str, int], Member]] = {}
    for row in rows.to_pylist():
        listed = members.setdefault(row.pop("unit_id"), {})
        member = Member(**row)
        listed.setdefault((*member.identity, member.chunk), member)
    return [Unit(unit_id, tuple(listed.values())) for unit_id, listed in members.items()]
