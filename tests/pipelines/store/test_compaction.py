"""Compaction and sweep: whatever happens in between, every row is there exactly once."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import storage
from pipelines.store import FeatureStore, StoreError, committed_units, compact, compaction, sweep, writer
from pipelines.store.commits import commit_uri, compaction_files, read_commits
from tests.pipelines.store.interruptions import killed_at, watched
from tests.pipelines.store.units import LONG, Source, commit, manifest

MADE_WITH = manifest()
DAY_S = 24 * 3600
COMPACTED = {
    "a0": [Source("a", 20), Source("b", 5)],
    "a1": [LONG[1]],
    "a2": [Source("c", 0, status="failed")],
}
OWN = {
    "b0": [LONG[0]],
    "b1": [LONG[2], Source("d", 7)],
    "b2": [Source("c", 9, retry=1)],
    "b3": [Source("e", 0, status="failed"), Source("f", 17), Source("f", 17)],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with compacted units, units with own records, and one that has both."""
    folder = tmp_path_factory.mktemp("template") / "store"
    store = FeatureStore.create(folder, MADE_WITH)
    for unit, sources in COMPACTED.items():
        commit(store.uri, unit, sources, MADE_WITH)
    compact(store.uri)
    for unit, sources in [*OWN.items(), ("a0", COMPACTED["a0"])]:
        commit(store.uri, unit, sources, MADE_WITH)
    return folder


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Callable[[], str]:
    """Copies of the template, one per call."""
    numbers = itertools.count()

    def copy() -> str:
        return storage.resolve(shutil.copytree(template, tmp_path / str(next(numbers))))

    return copy


def content(store: FeatureStore) -> list[Any]:
    """What a reader sees: all rows, and the features of a video in parts and of one that failed at first."""
    loaded = [store.load(video_id).dinov2.float().numpy().tobytes() for video_id in ("long-id", "c-id")]
    return [store.videos().to_pylist(), loaded]


def seen(uri: str) -> list[Any]:
    """The same by somebody who opens the store now, once all is found to be in order."""
    assert committed_units(uri) == COMPACTED.keys() | OWN.keys()
    store = FeatureStore.open(uri)
    assert store.verify(deep=True).problems == ()
    return content(store)


def age(uri: str, seconds: float) -> None:
    """As if the store had been left alone for so long."""
    for path in storage.local_path(uri).rglob("*"):
        os.utime(path, times=(path.stat().st_atime, path.stat().st_mtime - seconds))


def files(uri: str, folder: str) -> list[str]:
    return sorted(path.name for path in (storage.local_path(uri) / folder).glob("*"))


def test_compaction_changes_nothing_but_the_files(root: str) -> None:
    store = FeatureStore.create(root, MADE_WITH)
    for unit, sources in (COMPACTED | OWN).items():
        commit(root, unit, sources, MADE_WITH)
    before, opened = seen(root), FeatureStore.open(root)
    assert [row["source"] for row in before[0]] == [f"file:///{name}.mp4" for name in (*"abcdef", "long")]
    records = dict(opened.commits)
    result = compact(root)
    assert (result.units, result.files, result.problems) == (7, 1, ())
    assert [item.uri for item in storage.listing(storage.join(root, "commits")) if item.uri.endswith("json")] == []
    assert seen(root) == before == content(opened)
    commits = read_commits(root)
    assert commits.keys() == records.keys()
    for unit, record in records.items():
        assert commits[unit].frames == record.frames and commits[unit].counts == record.counts
    assert compact(root).files == 0
    store.refresh()
    stats = store.stats()
    assert (stats.units, stats.own_commits, stats.compactions) == (7, 0, 1)
    assert stats.statuses == {"ok": 6, "truncated": 0, "failed": 1} and stats.errors == {"Corrupt": 1}
    assert stats.sampled == 20 + 5 + 84 + 9 + 7 + 17 and stats.seconds == {"decode": 7.0}


def test_little_is_taken_in_and_much_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore.create(tmp_path, MADE_WITH)

    def extend(first: int, count: int) -> int:
        for number in range(first, first + count):
            commit(store.uri, f"u{number:03}", [Source(f"v{number}", 20)], MADE_WITH)
        compact(store.uri)
        store.refresh()
        assert len(store.commits) == store.videos().num_rows == first + count
        return len(store.commits.compactions)

    assert extend(0, 12) == 1
    assert extend(12, 1) == 2, "twelve are not rewritten for the sake of one"
    assert extend(13, 8) == 1
    monkeypatch.setattr(compaction, "_BATCH_BYTES", 3000)
    assert extend(21, 8) == 4, "a batch has a largest size"
    assert store.verify().problems == ()


def test_killed_at_any_moment(fresh: Callable[[], str]) -> None:
    expected = seen(fresh())
    for operation in itertools.count():
        uri = fresh()
        with killed_at(operation) as operations:
            compact(uri)
        finished = operations.count <= operation
        assert seen(uri) == expected, operation
        if finished:
            break
        sweep(uri, grace_s=-1, delete=True)
        compact(uri)
        assert files(uri, "commits")[0].startswith("compacted"), "the next run takes in what was left"
        assert seen(uri) == expected, operation
    assert operation > 30


def again(uri: str) -> None:
    """Another driver does a unit again that has an own record, and one that is compacted."""
    for unit in ("b1", "a1"):
        commit(uri, unit, (COMPACTED | OWN)[unit], MADE_WITH)


OTHERS: dict[str, Callable[[str], object]] = {
    "another compaction, and units done again": lambda uri: (compact(uri), again(uri)),
    "a compaction and a sweep": lambda uri: (compact(uri), sweep(uri, delete=True)),
}
SELF: dict[str, Callable[[str], object]] = {
    "compact": lambda uri: compact(uri).problems == (),
    "read": lambda uri: content(FeatureStore.open(uri)),
    "list": committed_units,
}


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("doing", SELF)
def test_others_at_any_moment(fresh: Callable[[], str], doing: str, others: str) -> None:
    expected = content(FeatureStore.open(fresh()))
    result = {"compact": True, "read": expected, "list": COMPACTED.keys() | OWN.keys()}[doing]
    for operation in itertools.count():
        uri = fresh()
        age(uri, 3 * DAY_S)
        opened_before = FeatureStore.open(uri)
        assert len(opened_before.commits) == 7

        def act(number: int, uri: str = uri, operation: int = operation) -> None:
            if number == operation:
                OTHERS[others](uri)

        with watched(act) as operations:
            assert SELF[doing](uri) == result, operation
        assert content(FeatureStore.open(uri)) == content(opened_before) == expected, operation
        if operations.count <= operation:
            break
    assert operation >= {"compact": 30, "read": 20, "list": 3}[doing]
    assert FeatureStore.open(uri).verify(deep=True).problems == ()


def test_a_newer_record_is_not_deleted(fresh: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_READERS", 1)
    uri = fresh()
    newer: list[bytes] = []

    def act(number: int) -> None:
        # after the records were read, and before any is deleted
        if not newer and len(compaction_files(uri)) == 2:
            again(uri)
            newer.append(storage.read_bytes(commit_uri(uri, "b1")))

    with watched(act):
        compact(uri)
    assert storage.read_bytes(commit_uri(uri, "b1")) == newer[0]
    assert {"a1.json", "b1.json"} < set(files(uri, "commits"))
    assert "b0.json" not in files(uri, "commits")


def test_sweep_takes_orphans_of_age(fresh: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    uri = fresh()
    expected = seen(uri)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "write_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        commit(uri, "killed", [Source("k", 20)], MADE_WITH)
    (storage.local_path(uri) / "commits" / ".b9.json.x.tmp").write_text("half")
    assert sweep(uri, delete=True) == []

    age(uri, 2 * DAY_S)
    found = [item.uri.removeprefix(uri) for item in sweep(uri)]
    # the template's own compaction replaced three files and a repeated unit's row and frames files
    assert len([name for name in found if "killed" in name]) == 2 and len(found) == 2 + 1 + 3 + 1
    assert sorted(found) == sorted(item.uri.removeprefix(uri) for item in sweep(uri, delete=True))
    assert sweep(uri) == []
    assert seen(uri) == expected

    opened = FeatureStore.open(uri)
    assert len(opened.commits) == 7
    compact(uri)
    assert sweep(uri, delete=True) == [], "old files that were replaced just now have readers"
    assert content(opened) == expected
    age(uri, 2 * DAY_S)
    sweep(uri, delete=True)
    assert len(files(uri, "commits")) == 1 and len(files(uri, "videos")) == 2 and len(files(uri, "frames")) == 7
    assert seen(uri) == expected
    with pytest.raises(StoreError, match=r"replaced it.*open the store again"):
        FeatureStore.row(_forgetful(opened), "a-id")


def _forgetful(store: FeatureStore) -> FeatureStore:
    """The store with its old commits, but without the rows that it has read."""
    copy = FeatureStore(store.uri, store.manifest)
    copy.__dict__ |= {name: store.__dict__[name] for name in ("commits", "_index", "_positions")}
    return copy


def test_damage_is_not_compacted_away(fresh: Callable[[], str]) -> None:
    uri = fresh()
    record = read_commits(uri)["b1"]
    path = storage.local_path(storage.join(uri, record.videos.path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    lost = storage.local_path(storage.join(uri, read_commits(uri)["b2"].videos.path))
    lost.unlink()
    result = compact(uri)
    assert sorted(problem.split(": ")[1] for problem in result.problems) == [
        "committed but missing",
        "content differs from the committed SHA-256",
    ]
    assert result.units == 3
    assert [name for name in files(uri, "commits") if name.endswith("json")] == ["b1.json", "b2.json"]
    problems = FeatureStore.open(uri).verify().problems
    assert len(problems) == 2


def test_verify_reads_compacted_files(fresh: Callable[[], str]) -> None:
    uri = fresh()
    compact(uri)
    assert FeatureStore.open(uri).verify().problems == ()
    live = read_commits(uri).compactions[-1]
    for file in (live.videos, live.index):
        path = storage.local_path(storage.join(uri, file.path))
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        problems = FeatureStore.open(uri).verify().problems
        assert len(problems) == 1 and file.path in problems[0]
        path.write_bytes(data)


def test_writing_that_stood_still_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore.create(tmp_path, MADE_WITH)
    clock = itertools.count(time.time(), writer.GRACE_S)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    with pytest.raises(StoreError, match=r"24\.0 h passed between writing and committing"):
        commit(store.uri, "u1", [Source("a", 20)], MADE_WITH)
    assert committed_units(store.uri) == set()
