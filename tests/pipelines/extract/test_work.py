"""What is left to do, over real stores whose units are committed without decoding anything."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import storage
from pipelines.extract.config import ExtractConfig
from pipelines.extract.plan import Extent, Unit, plan_units, write_plan
from pipelines.extract.work import Work, find_work, store_uri
from pipelines.store import FeatureStore, StoreManifest, commit_unit
from pipelines.store.features import FeatureSpec
from pipelines.store.schema import VIDEOS, frames_schema

SPEC = FeatureSpec("dinov2", 4, 8, "float16")


@pytest.fixture
def config(tmp_path: Path) -> ExtractConfig:
    (tmp_path / "videos").mkdir()
    for name in "abcd":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(name.encode())
    return ExtractConfig(source=str(tmp_path / "videos"), store=str(tmp_path / "runs"))


@pytest.fixture
def store(config: ExtractConfig) -> FeatureStore:
    manifest = StoreManifest(
        name=config.name,
        config=config.flat(),
        config_digest=config.digest(),
        features=(SPEC,),
        window_frames=16,
        keep_threshold=0.9,
        keep_all_below=0,
        jpeg=False,
        towers={},
        preprocessing={},
    )
    return FeatureStore.create(store_uri(config), manifest)


def plan(config: ExtractConfig, work: Work, run_id: str, count: int = 1, unit_frames: int = 512) -> list[Unit]:
    extents = {source.uri: Extent(count, step=4, fps=4.0, predicted_s=1.0 * count) for source in work.fresh}
    units = plan_units(work.fresh, extents, config.digest(), unit_frames)
    write_plan(work.store, run_id, units)
    return units


def commit(store: FeatureStore, units: Iterable[Unit], failing: str = "", error: str = "Timeout") -> None:
    """Commit units; parts of sources whose name is in ``failing`` (after the first chunk, if there are more) fail."""
    for unit in units:
        rows = []
        for member in unit.members:
            bad = Path(member.source).stem in failing and (member.chunk > 0 or member.num_chunks == 1)
            row = {name: getattr(member, name, None) for name in VIDEOS.names} | {"unit_id": unit.unit_id}
            rows.append(row | {"status": "failed" if bad else "ok", "error": error if bad else None})
        frames = frames_schema([SPEC], jpeg=False).empty_table()
        commit_unit(store.uri, unit.unit_id, frames, pa.Table.from_pylist(rows, VIDEOS), run_id="test")


def stems(sources: Iterable[storage.StoredObject]) -> str:
    return "".join(Path(source.uri).stem for source in sources)


def test_only_what_is_new_is_work(config: ExtractConfig, store: FeatureStore) -> None:
    work = find_work(config)
    assert (stems(work.fresh), work.pending) == ("abcd", [])
    units = plan(config, work, "1")
    assert (find_work(config).fresh, find_work(config).pending) == ([], units)
    commit(store, units)
    assert find_work(config).nothing_left

    folder = Path(str(config.source))
    (folder / "e.mp4").write_bytes(b"e")
    (folder / "b.mp4").write_bytes(b"changed")
    os.unlink(folder / "c.mp4")
    work = find_work(config)
    assert (stems(work.fresh), work.pending, stems(work.sources)) == ("be", [], "abde")


def test_pending_units_come_by_cost_and_only_for_wanted_sources(config: ExtractConfig, store: FeatureStore) -> None:
    work = find_work(config)
    for cost, source in enumerate(work.fresh):
        extents = {source.uri: Extent(9, predicted_s=cost)}
        write_plan(work.store, f"{cost}", plan_units([source], extents, config.digest(), 512))
    assert [unit.predicted_s for unit in find_work(config).pending] == [3, 2, 1, 0]
    only = config.changed(source=f"{config.source}/a.mp4")
    assert [Path(unit.members[0].source).stem for unit in find_work(only).pending] == ["a"]


def test_failed_sources_come_back_when_asked_for(config: ExtractConfig, store: FeatureStore) -> None:
    commit(store, plan(config, find_work(config), "1"), failing="bd")
    assert find_work(config).nothing_left, "quarantine is final until someone asks"

    work = find_work(config, retry_quarantined=True)
    assert (stems(work.fresh), stems(work.retries), work.pending) == ("bd", "bd", [])
    assert {source.retry for source in work.fresh} == {1}
    second = plan(config, work, "2")
    for again in (find_work(config), find_work(config, retry_quarantined=True)):
        assert (again.fresh, again.pending) == ([], second), "planned, so it is resumed and not planned twice"

    commit(store, second, failing="d")
    assert find_work(config).nothing_left
    work = find_work(config, retry_quarantined=True)
    assert [(Path(source.uri).stem, source.retry) for source in work.fresh] == [("d", 2)]
    commit(store, plan(config, work, "3"))
    assert find_work(config, retry_quarantined=True).nothing_left
    assert set(store.open(store.uri).videos(["status"])["status"].to_pylist()) == {"ok"}


def test_a_video_of_which_a_part_failed_comes_back_whole(config: ExtractConfig, store: FeatureStore) -> None:
    units = plan(config, find_work(config), "1", count=40, unit_frames=16)
    commit(store, units, failing="c")
    work = find_work(config, retry_quarantined=True)
    assert stems(work.fresh) == "c"
    second = plan(config, work, "2", count=40, unit_frames=16)
    assert len(second) == 3
    commit(store, second, failing="c")
    again = find_work(config, retry_quarantined=True).fresh
    assert [(Path(source.uri).stem, source.retry) for source in again] == [("c", 2)]


def test_a_file_that_ends_early_is_not_tried_again(config: ExtractConfig, store: FeatureStore) -> None:
    commit(store, plan(config, find_work(config), "1", count=40, unit_frames=16), failing="c", error="Truncated")
    assert find_work(config, retry_quarantined=True).nothing_left


def test_ten_thousand_units_take_a_second(tmp_path: Path) -> None:
    """``tests/benchmarks/incremental.py`` has ten times as many."""
    config = ExtractConfig(source=str(tmp_path / "videos"), store=str(tmp_path / "runs"))
    (tmp_path / "videos").mkdir()
    for number in range(1000):
        (tmp_path / "videos" / f"{number:04}.mp4").touch()
    work = find_work(config)
    units = plan_units(work.fresh, {source.uri: Extent(5000, fps=25.0, step=25) for source in work.fresh}, "0", 512)
    assert len(units) == 10_000
    write_plan(work.store, "1", units)
    commits = storage.local_path(work.store) / "commits"
    commits.mkdir()
    for unit in units[5:]:
        (commits / f"{unit.unit_id}.json").touch()
    started_s = time.process_time()
    work = find_work(config)
    assert time.process_time() - started_s < 1
    assert (work.fresh, sorted(unit.unit_id for unit in work.pending)) == ([], sorted(u.unit_id for u in units[:5]))
