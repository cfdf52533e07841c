"""The store: what was written is what is read, and only what is committed is seen."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longvu_model.frame_selection import WINDOW_FRAMES as MODEL_WINDOW_FRAMES
from longvu_model.frame_selection import keep_frames
from pipelines import storage
from pipelines.extract import commit as extract_commit
from pipelines.store import FeatureStore, StageColumns, StoreError, committed_units, compact, writer
from pipelines.store.features import cast_features
from pipelines.store.schema import VIDEOS, WINDOW_FRAMES, arrow_type, frames_schema
from pipelines.store.videos import MERGED
from tests.pipelines.store.units import LONG, Source, commit, manifest

PLAIN_TYPES = [pa.bool_(), pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]
PLAIN_TYPES += [pa.string(), pa.binary(), pa.large_string(), pa.large_binary(), pa.date32(), pa.timestamp("us")]


def expected(source: Source, name: str, made_with: object) -> torch.Tensor:
    spec = next(spec for spec in made_with.features if spec.name == name)  # type: ignore[attr-defined]
    return cast_features(source.features(name), spec)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_round_trip(root: str, dtype: str) -> None:
    made_with = manifest(dtype, siglip=True)
    store = FeatureStore.create(root, made_with)
    sources = [Source("a", 40), Source("b", 3), Source("c", 0, status="failed")]
    commit(root, "u1", sources, made_with)
    opened = FeatureStore.open(root)
    assert opened.manifest == store.manifest
    assert opened.videos().schema == MERGED
    assert opened.videos()["video_id"].to_pylist() == ["a-id", "b-id", "c-id"]
    for source in sources[:2]:
        loaded = opened.load(source.video_id)
        kept = torch.from_numpy(source.kept)
        assert torch.equal(loaded.dinov2.float(), expected(source, "dinov2", made_with)[kept].float())
        assert loaded.siglip is not None
        assert torch.equal(loaded.siglip.float(), expected(source, "siglip", made_with)[kept].float())
        assert loaded.dinov2.dtype == getattr(torch, dtype)
        assert np.array_equal(loaded.similarity, source.similarity)
        assert np.array_equal(loaded.kept, source.kept)
        assert np.array_equal(loaded.frame_index, np.flatnonzero(source.kept) * 25)
        assert np.array_equal(loaded.pts_s, loaded.frame_index / 25)
        assert loaded.video["status"] == "ok" and loaded.video["units"] == ["u1"]
    assert opened.verify().problems == ()
    assert opened.quarantine().to_pylist() == [
        {
            "source": "file:///c.mp4",
            "error": "Corrupt",
            "message": "bad",
            "log_tail": "moov atom not found",
            "attempts": 2,
            "retry": 0,
            "kind": "video",
            "decoder": None,
            "size_bytes": 1,
            "version": "mtime:1",
            "video_id": "c-id",
            "units": ["u1"],
        }
    ]


def test_threshold_and_cap_are_choices_at_load_time(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    source = Source("a", 100)
    commit(store.uri, "u1", [source], made_with)
    whole = expected(source, "dinov2", made_with)
    for threshold, cap in ((0.9, None), (0.83, 400), (0.8, 7), (0.701, 400), (0.0, 400)):
        loaded = store.load("a-id", threshold, cap)
        wanted = keep_frames(torch.from_numpy(source.similarity), threshold, max_frames=cap or 400)
        assert np.array_equal(loaded.kept, wanted.numpy())
        assert torch.equal(loaded.dinov2, whole[wanted])
        selected = store.select(threshold, cap).to_pylist()
        assert selected[0]["kept"] == wanted.tolist() and selected[0]["num_kept"] == int(wanted.sum())
        assert selected[0]["num_missing"] == 0
    with pytest.raises(StoreError, match=r"threshold 0\.95 keeps \d+ frames and \d+ of them have no features"):
        store.load("a-id", 0.95)
    with pytest.raises(StoreError, match=r"use at most 0\.9"):
        store.load("a-id", math.inf)
    assert store.select(0.95).to_pylist()[0]["num_missing"] > 0


def test_chunks_are_one_video_once_all_are_committed(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    commit(store.uri, "u3", [LONG[2]], made_with)
    commit(store.uri, "u1", [LONG[0], Source("b", 5)], made_with)
    assert store.videos()["source"].to_pylist() == ["file:///b.mp4"]
    commit(store.uri, "u2", [LONG[1]], made_with)
    store.refresh()
    row = store.row("long-id")
    assert row["units"] == ["u1", "u2", "u3"]
    assert (row["num_sampled"], len(row["similarity"])) == (84, 84)
    loaded = store.load("long-id", 0.85)
    whole = torch.cat([expected(part, "dinov2", made_with) for part in LONG])
    similarity = np.concatenate([part.similarity for part in LONG])
    assert torch.equal(loaded.dinov2, whole[torch.from_numpy(similarity < 0.85)])
    assert np.array_equal(loaded.frame_index, np.flatnonzero(similarity < 0.85) * 25)
    frames = store.frames("long-id", ["window", "frame_index", "similarity"])
    assert frames["window"].to_pylist() == [sample // 16 for sample in range(84)]
    assert np.array_equal(frames["similarity"].to_numpy(), similarity)


def test_a_video_ends_at_its_first_bad_chunk(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    middle = dataclasses.replace(LONG[1], frames=4, status="truncated")
    last = dataclasses.replace(LONG[2], frames=0, status="failed")
    for number, part in enumerate([LONG[0], middle, last]):
        commit(store.uri, f"u{number}", [part], made_with)
    row = store.row("long-id")
    assert (row["status"], row["num_sampled"], row["units"]) == ("truncated", 36, ["u0", "u1"])
    assert len(store.load("long-id").dinov2) == LONG[0].kept.sum() + middle.kept.sum()
    whole_failed = [dataclasses.replace(part, name="x", frames=0, status="failed") for part in LONG]
    for number, part in enumerate(whole_failed):
        commit(store.uri, f"v{number}", [part], made_with)
    store.refresh()
    assert store.quarantine()["source"].to_pylist() == ["file:///x.mp4"]


def test_of_several_tries_one_is_shown(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)

    def shown() -> list[tuple[object, ...]]:
        store.refresh()
        return [tuple(row[name] for name in ("status", "retry", "num_sampled")) for row in store.videos().to_pylist()]

    commit(store.uri, "u3", [Source("a", 0, status="failed")], made_with)
    commit(store.uri, "u2", [Source("a", 0, status="failed", retry=1)], made_with)
    assert shown() == [("failed", 1, 0)]
    assert store.quarantine()["units"].to_pylist() == [["u2"]]
    # a retry in two parts counts once both are there
    commit(store.uri, "u1", [Source("a", 32, num_chunks=2, retry=2)], made_with)
    assert shown() == [("failed", 1, 0)]
    commit(store.uri, "u0", [Source("a", 8, chunk=1, num_chunks=2, first_sample=32, retry=2)], made_with)
    assert shown() == [("ok", 2, 40)]
    assert store.load("a-id").video["units"] == ["u1", "u0"]
    # two drivers retried it, and only one of them failed
    commit(store.uri, "u4", [Source("a", 0, status="failed", retry=3)], made_with)
    assert shown() == [("ok", 2, 40)]
    commit(store.uri, "u5", [Source("a", 32, num_chunks=2, retry=2, status="failed")], made_with)
    assert shown() == [("ok", 2, 40)]


def test_parts_agree_on_what_a_source_is(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    first, second = LONG[0], dataclasses.replace(LONG[1], frames=0, status="failed")
    for unit, part in (("u0", first), ("u1", second), ("u2", LONG[2])):
        commit(store.uri, unit, [part], made_with)
    row = store.videos().to_pylist()[0]
    assert (row["status"], row["error"], row["log_tail"]) == ("truncated", "Corrupt", "moov atom not found")
    assert (row["attempts"], row["decoder"], row["units"]) == (2, "pyav", ["u0"])


def test_only_committed_files_are_visible(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made_with = manifest()
    store = FeatureStore.create(root, made_with)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "write_commit", killed)
        commit(root, "u1", [Source("a", 20)], made_with)
    assert len(list(storage.listing(storage.join(root, "frames")))) == 1
    assert committed_units(root) == set()
    assert store.videos().num_rows == 0
    with pytest.raises(StoreError, match="'a-id' is not in"):
        store.load("a-id")

    for _ in range(2):
        commit(root, "u1", [Source("a", 20)], made_with)
    store.refresh()
    assert len(list(storage.listing(storage.join(root, "frames")))) == 3
    assert committed_units(root) == {"u1"}
    assert store.videos().num_rows == 1
    assert len(store.load("a-id").similarity) == 20


def test_copies_and_overlapping_plans_count_once(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    # two drivers cut the same source differently; one unit holds the same bytes twice
    for number, part in enumerate(LONG):
        commit(store.uri, f"u{number}", [part], made_with)
    commit(store.uri, "w", [Source("long", 84), Source("b", 20), Source("b", 20)], made_with)
    assert store.videos()["source"].to_pylist() == ["file:///b.mp4", "file:///long.mp4"]
    assert len(store.load("b-id").dinov2) == Source("b", 20).kept.sum()
    assert store.frames("b-id").num_rows == 20
    assert store.row("long-id")["num_sampled"] == 84


def test_verify_finds_damage(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    commits = [commit(store.uri, f"u{number}", [Source(f"v{number}", 20)], made_with) for number in range(3)]
    assert store.verify().files == 6
    flipped = tmp_path / commits[0].frames.path
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    (tmp_path / commits[1].videos.path).unlink()
    shorter = tmp_path / commits[2].frames.path
    shorter.write_bytes(shorter.read_bytes()[:-1])
    problems = store.verify().problems
    assert len(problems) == 3
    assert "content differs" in problems[0] and commits[0].frames.path in problems[0]
    assert "committed but missing" in problems[1]
    assert "bytes, committed were" in problems[2]


def test_commit_records_what_readers_need(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    written = commit(store.uri, "u1", [Source("a", 20), Source("bad", 0, status="failed")], made_with)
    assert store.commits == {"u1": written}
    assert written.counts == {"ok": 1, "truncated": 0, "failed": 1, "sampled": 20, "kept": 13, "stored": 13} | {
        "kept": int(Source("a", 20).kept.sum()),
        "stored": int(Source("a", 20).kept.sum()),
    }
    assert written.errors == {"Corrupt": 1}
    assert written.video_ids == ("a-id", "bad-id")


def test_files_are_plain_parquet(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    written = commit(store.uri, "u1", [Source("a", 70), Source("b", 10)], made_with)
    videos = pq.read_table(tmp_path / written.videos.path)
    assert videos.schema == VIDEOS
    footer = pq.read_metadata(tmp_path / written.frames.path)
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [32, 32, 6, 10]
    frames = pq.read_table(tmp_path / written.frames.path)
    assert frames["dinov2"].null_count == 80 - written.counts["stored"]
    field = frames.schema.field("dinov2")
    assert json.loads(field.metadata[b"shape"]) == [6, 10] and field.metadata[b"encoding"] == b"byte_split"
    column = footer.row_group(0).column(footer.schema.names.index("dinov2"))
    assert column.compression == "ZSTD" and not column.is_stats_set


def test_another_model_or_another_setting_is_refused(tmp_path: Path) -> None:
    made_with = manifest()
    FeatureStore.create(tmp_path, made_with)
    FeatureStore.create(tmp_path, dataclasses.replace(made_with, model={"name": "moved"}, config={"any": 1}))
    for change, named in (
        ({"towers": {"dinov2": "other"}}, "dinov2 tower t, this run has other"),
        ({"preprocessing": {"dinov2": "other"}}, "dinov2 preprocessing p"),
        ({"config_digest": "1" * 64}, "config digest"),
    ):
        with pytest.raises(StoreError, match=named):
            FeatureStore.create(tmp_path, dataclasses.replace(made_with, **change))
    with pytest.raises(StoreError, match="siglip"):
        FeatureStore.create(tmp_path, manifest(siglip=True))


def test_stages_add_columns_and_are_part_of_what_a_store_is(tmp_path: Path) -> None:
    columns = (pa.field("caption", pa.string()), pa.field("boxes", pa.list_(pa.float32())))
    stage = StageColumns("describe", "package.module:Describe", "1", columns)
    made_with = manifest(stages={"describe": stage})
    FeatureStore.create(tmp_path, made_with)
    assert FeatureStore.open(tmp_path).manifest == made_with
    schema = frames_schema(made_with.features, jpeg=False, stages=made_with.stages.values())
    assert schema.names[-3:] == ["dinov2", "caption", "boxes"]
    changed = dataclasses.replace(stage, version="2")
    with pytest.raises(StoreError, match="stage describe"):
        FeatureStore.create(tmp_path, manifest(stages={"describe": changed}))
    with pytest.raises(StoreError, match="was made with stage describe"):
        FeatureStore.create(tmp_path, manifest())
    with pytest.raises(ValueError, match="'pts_s' exists already"):
        frames_schema((), jpeg=False, stages=[dataclasses.replace(stage, columns=(pa.field("pts_s", pa.int8()),))])


@given(st.recursive(st.sampled_from(PLAIN_TYPES), lambda inner: inner.map(pa.list_), max_leaves=2))
def test_arrow_types_are_read_back_from_their_names(kind: pa.DataType) -> None:
    assert arrow_type(str(kind)) == kind


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no feature store \(store\.json is missing\)"):
        FeatureStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"a": 1}')
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore.open(tmp_path)
    (tmp_path / "store.json").write_text(
        '{"format": "longvu-feature-store", "format_version": 99, "created_by": "9.1"}'
    )
    with pytest.raises(StoreError, match=r"version 99.*9\.1"):
        FeatureStore.open(tmp_path)


def test_failed_and_unknown_videos(tmp_path: Path) -> None:
    made_with = manifest()
    store = FeatureStore.create(tmp_path, made_with)
    commit(store.uri, "u1", [Source("bad", 0, status="failed")], made_with)
    with pytest.raises(StoreError, match="failed: bad"):
        store.load("bad-id")
    with pytest.raises(StoreError, match="'x' is not in"):
        store.load("x")


def test_windows_are_the_models() -> None:
    assert WINDOW_FRAMES == MODEL_WINDOW_FRAMES


def test_stores_of_older_versions(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their videos files lack columns that are younger; stores of LongVU's features are written as before."""
    younger = ("eva_digest", "languagebind_digest")
    made_with = manifest(siglip=True)
    FeatureStore.create(root, made_with)
    with monkeypatch.context() as patch:
        patch.setattr(extract_commit, "VIDEOS", pa.schema([field for field in VIDEOS if field.name not in younger]))
        commit(root, "u0", [Source("a", 40)], made_with)
    commit(root, "u1", [Source("b", 20)], made_with)
    whole = expected(Source("a", 40), "dinov2", made_with)
    for _ in range(2):
        store = FeatureStore.open(root)
        assert store.videos().schema == MERGED and all(store.videos()[name].null_count == 2 for name in younger)
        loaded = store.load("a-id")
        assert torch.equal(loaded.dinov2, whole[torch.from_numpy(loaded.kept)])
        assert compact(root).problems == ()
    record = json.loads(storage.read_bytes(storage.join(root, "store.json")))
    assert (record["format_version"], record["keep_threshold"]) == (2, 0.9)
