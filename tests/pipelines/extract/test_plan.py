"""Units cover every sampled frame once, and their ids depend on nothing but configuration and members."""

from __future__ import annotations

import dataclasses
import heapq
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvu_model.video import FrameSampling, sample_indices
from pipelines import storage
from pipelines.extract.index import IMAGE, Source
from pipelines.extract.plan import (
    MAX_UNIT_S,
    MAX_VIDEOS,
    Extent,
    Member,
    Unit,
    plan_units,
    read_plan,
    units_of,
    write_plan,
)

DIGEST = "0" * 64


def source(number: int) -> Source:
    return Source(f"file:///{number:04}.mp4", 100 + number, "mtime:1")


def extents_of(videos: list[tuple[int, float]], rule: FrameSampling) -> dict[str, Extent]:
    extents = {}
    for number, (num_frames, fps) in enumerate(videos):
        indices = sample_indices(num_frames, fps, rule)
        step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        extents[source(number).uri] = Extent(len(indices), int(indices[0]), step, fps)
    return extents


@given(
    videos=st.lists(
        st.tuples(st.integers(1, 20_000), st.sampled_from([1.0, 12.5, 24000 / 1001, 25.0, 60.0])), max_size=9
    ),
    unit_frames=st.sampled_from([16, 64, 512]),
    rate=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_every_sampled_frame_is_in_exactly_one_unit(
    videos: list[tuple[int, float]], unit_frames: int, rate: float
) -> None:
    rule = FrameSampling(fps=rate)
    sources = [source(number) for number in range(len(videos))]
    units = plan_units(sources, extents_of(videos, rule), DIGEST, unit_frames)
    got: dict[str, list[int]] = {item.uri: [] for item in sources}
    for unit in units:
        assert len(unit.members) <= MAX_VIDEOS
        assert sum(member.expected_samples or 0 for member in unit.members) <= unit_frames
        for member in unit.members:
            num_frames, fps = videos[int(Path(member.source).stem)]
            assert member.first_sample % 16 == 0 and member.first_sample == len(got[member.source])
            part = FrameSampling(fps=rate, start_s=member.start_s, end_s=member.end_s)
            indices = sample_indices(num_frames, fps, part)
            assert len(indices) == member.expected_samples
            got[member.source] += indices.tolist()
    for number, (num_frames, fps) in enumerate(videos):
        assert got[source(number).uri] == sample_indices(num_frames, fps, rule).tolist()


def test_ids_are_a_pure_function_of_config_and_members() -> None:
    sources = [source(number) for number in range(5)]
    extents = {item.uri: Extent(300, fps=25.0, step=25) for item in sources}
    units = plan_units(sources, extents, DIGEST, 128)
    shuffled = dict(random.Random(0).sample(sorted(extents.items()), len(extents)))
    assert plan_units(list(sources), shuffled, DIGEST, 128) == units
    ids = {unit.unit_id for unit in units}
    assert len(ids) == len(units) == 15
    assert ids.isdisjoint(unit.unit_id for unit in plan_units(sources, extents, "1" * 64, 128))
    moved = [Source(item.uri, item.size_bytes, "mtime:2") for item in sources]
    assert ids.isdisjoint(unit.unit_id for unit in plan_units(moved, extents, DIGEST, 128))


def test_unknown_and_unsplittable_sources_stand_alone() -> None:
    sources = [source(number) for number in range(4)]
    extents = {
        sources[0].uri: Extent(10),
        sources[1].uri: None,
        sources[2].uri: Extent(900, fps=None, predicted_s=3.0),
        sources[3].uri: Extent(10),
    }
    units = plan_units(sources, extents, DIGEST, 128)
    assert [[member.source for member in unit.members] for unit in units] == [
        [sources[1].uri],
        [sources[2].uri],
        [sources[0].uri, sources[3].uri],
    ]
    assert units[1].members[0].num_chunks == 1 and units[1].members[0].total_samples == 900
    assert units[0].members[0].expected_samples is None


def test_groups_are_bounded() -> None:
    sources = [source(number) for number in range(200)]
    units = plan_units(sources, {item.uri: Extent(0) for item in sources}, DIGEST, 16)
    assert [len(unit.members) for unit in units] == [64, 64, 64, 8]
    slow = plan_units(sources, {item.uri: Extent(1, predicted_s=MAX_UNIT_S / 3.5) for item in sources}, DIGEST, 512)
    assert {len(unit.members) for unit in slow} == {3, 2}


def test_images_need_no_measuring_and_share_units_of_their_own() -> None:
    pictures = [Source(f"file:///{number:04}.jpg", 50_000, "mtime:1", kind=IMAGE) for number in range(300)]
    videos = [source(number) for number in range(3)]
    mixed = sorted([*pictures, *videos], key=lambda item: item.uri)
    units = plan_units(mixed, {item.uri: Extent(9, predicted_s=1.0) for item in videos}, DIGEST, 128)
    assert [[member.kind for member in unit.members] for unit in units] == [
        ["video"] * 3,
        ["image"] * 128,
        ["image"] * 128,
        ["image"] * 44,
    ]
    assert all(member.expected_samples == 1 for unit in units[1:] for member in unit.members)
    assert 0.3 < units[1].predicted_s < 10


def makespan(units: list[Unit], workers: int) -> float:
    """When the last worker ends if each takes the next unit as it becomes free."""
    free_at = [0.0] * workers
    for unit in units:
        heapq.heapreplace(free_at, free_at[0] + unit.predicted_s)
    return max(free_at)


def test_workers_end_together() -> None:
    """A corpus as they come: many short videos, a few of hours, sizes over two orders of magnitude."""
    rng = random.Random(0)
    sources = [source(number) for number in range(400)]
    extents = {}
    for item in sources:
        count, per_frame_s = round(rng.lognormvariate(4.5, 1.6)), rng.choice([0.01, 0.03, 0.08, 0.3])
        extents[item.uri] = Extent(count, step=25, fps=25.0, predicted_s=count * per_frame_s)
    units = plan_units(sources, extents, DIGEST, 512)
    total_s = sum(extent.predicted_s for extent in extents.values())
    assert sum(unit.predicted_s for unit in units) == pytest.approx(total_s)
    whole = [Unit("", (Member(item.uri, 1, "", predicted_s=extents[item.uri].predicted_s),)) for item in sources]
    for workers in (2, 8, 16):
        assert makespan(units, workers) < 1.02 * total_s / workers
    assert makespan(whole, 16) > 1.15 * total_s / 16, "the corpus is too easy to show anything"


def test_retries_and_kinds_are_other_units() -> None:
    plain = Source("file:///a.gif", 1, "mtime:1")
    ids = {
        plan_units([item], {item.uri: Extent(1)}, DIGEST, 16)[0].unit_id
        for item in (plain, dataclasses.replace(plain, kind=IMAGE), dataclasses.replace(plain, retry=1))
    }
    assert len(ids) == 3
    slower = plan_units([plain], {plain.uri: Extent(1, predicted_s=9.0)}, DIGEST, 16)
    assert slower[0].unit_id == plan_units([plain], {plain.uri: Extent(1)}, DIGEST, 16)[0].unit_id


def test_plans_are_stored_and_joined(tmp_path: Path) -> None:
    store = storage.resolve(tmp_path)
    sources = [source(number) for number in range(3)]
    extents: dict[str, Extent | None] = {item.uri: Extent(40, step=5, fps=4.9) for item in sources}
    first = plan_units(sources[:2], extents, DIGEST, 16)
    second = plan_units(sources, extents, DIGEST, 16)
    assert units_of(read_plan(store)) == []
    write_plan(store, "1", first)
    write_plan(store, "2", second)
    assert units_of(read_plan(store)) == [*first, *(unit for unit in second if unit not in first)]


def test_units_travel_as_json() -> None:
    for unit in plan_units([source(1)], {source(1).uri: Extent(40, step=5, fps=4.9)}, DIGEST, 16):
        assert Unit.from_json(unit.to_json()) == unit
