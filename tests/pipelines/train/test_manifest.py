"""The manifest: counts equal what the model makes of a sample; what is left out is named; made once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from longvu_model.config import LongVUConfig
from longvu_model.presets import PRESETS, random_model
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from pipelines import storage
from pipelines.errors import UserError
from pipelines.store import StoreError
from pipelines.train import manifest_builder
from pipelines.train.annotations import AnnotationFile, annotation_files
from pipelines.train.families import LongVUFamily
from pipelines.train.manifest import Manifest, open_manifest
from pipelines.train.manifest_builder import ManifestSettings, build_manifest, file_names
from pipelines.train.reader import PreparedSample, Reader
from tests.pipelines.train.conftest import Library, row

LONG = "What happens in which order? " * 9


def merged_tokens(library: Library, sample: PreparedSample) -> int:
    """Tokens of the sequence that the model really makes of a sample."""
    if sample.media is None:
        return len(sample.input_ids)
    with torch.no_grad():
        merged = library.model.model.see(sample.input_ids[None], sample.media, labels=sample.labels[None]).merged
    return int(merged.inputs_embeds.shape[1])


ROWS = [
    row("Name three rivers.", "Rhine, Po, Elbe."),
    row("<video>\nWhat is shown?", "A scene.", video="short.mp4"),
    row("<video>\nWhat is shown?", "Scenes.", video="scenes.mp4"),
    row("<video>\nWhat is shown?", "Many scenes.", video="sub/long.mp4"),
    row(f"<video>\n{LONG}", "Many.", video="sub/long.mp4"),
    row("<image>\nWhat is shown?", "Noise.", image="new_picture.png"),
    row("<image> and <image>: same?", "No.", image=["new_picture.png", "new_other.jpg"]),
    row("<video>\nWhat is shown?", "A scene.", video="new.mp4"),
    row("<video>\nWhat is shown?", "Frames.", video="new_frames.npy"),
    row("<video>\nWhat is shown?", "Numbers.", video="new_folder"),
    row("<video>\nWhen?", "Then.", video="scenes.mp4", start=8, end=15),
    row("<video>\nWhen?", "Then.", video="sub/long.mp4", start=10, end=95),
]


def test_planned_tokens_are_those_of_the_model(library: Library, tmp_path: Path) -> None:
    manifest = library.manifest(ROWS, tmp_path)
    assert len(manifest) == len(ROWS)
    reader = Reader(manifest, library.family, library.stored, library.online())
    table = manifest.table.to_pydict()
    regimes = set()
    for index, row_of in enumerate(ROWS):
        sample = reader.prepare(index)
        assert isinstance(sample, PreparedSample), sample
        made, planned = merged_tokens(library, sample), table["num_tokens"][index]
        # in the low regime tokens that repeat are dropped afterwards, and the plan is what they may be at most
        exact = planned < library.model.config.max_sequence_length - library.model.config.answer_reserve - 30
        assert made == planned if exact else made <= planned, row_of
        regimes.add(exact)
        assert sample.num_targets == table["num_target_tokens"][index]
        assert table["num_tokens"][index] == table["num_text_tokens"][index] + table["num_visual_tokens"][index]
        frames = 0 if sample.media is None else int(sample.media.frame_counts.sum())
        assert frames == table["num_frames"][index], row_of
    assert regimes == {True, False}
    assert table["modality"].count("image") == 2
    assert manifest.num_online == 5
    longer = table["num_tokens"].index(max(table["num_tokens"]))
    assert table["predicted_flops"][longer] == max(table["predicted_flops"])


def test_the_image_stage_plans_its_own_tokens(library: Library, tmp_path: Path) -> None:
    """Twice the grid, one resolution; what does not fit is dropped token by token."""
    image_model = random_model(PRESETS["tiny"]("image"))
    staged = dataclasses.replace(library, model=image_model)
    rows = [ROWS[5], ROWS[6], ROWS[1], ROWS[2]]
    manifest = staged.manifest(rows, tmp_path)
    reader = Reader(manifest, staged.family, library.stored, staged.online())
    planned = manifest.table["num_tokens"].to_pylist()
    for index in range(len(rows)):
        sample = reader.prepare(index)
        assert isinstance(sample, PreparedSample), sample
        made = merged_tokens(staged, sample)
        assert made == planned[index] if index < 3 else made <= planned[index]
    video_stage = library.manifest(rows, tmp_path / "video").table["num_tokens"].to_pylist()
    assert planned[0] > 2 * video_stage[0]


def test_samples_come_back_as_they_were_read(library: Library, tmp_path: Path) -> None:
    manifest = library.manifest(ROWS, tmp_path)
    sample = manifest.sample(6)
    assert sample.sample_id == "rows.json:6"
    assert [medium.path for medium in sample.media] == ["new_picture.png", "new_other.jpg"]
    assert [turn.text for turn in sample.turns] == ["<image> and <image>: same?", "No."]
    clip = manifest.sample(10).media[0]
    assert (clip.start_s, clip.end_s, clip.reduced) == (8.0, 15.0, False)
    assert manifest.sample(3).media[0].reduced


BAD_ROWS = [
    row("<video>\nWhat?", "That.", video="gone.mp4"),
    row("<video>\nWhat?", "That.", video="broken.mp4"),
    row("<image>\nWhat?", "That.", image="new_broken.jpg"),
    row("What?\n<video>", "That.", video="short.mp4"),
    row("<video>\nWhat?", "That.", video="short.mp4", start=900, end=901),
    row("<video>\nWhat?", "That.", video="new_folder", start=0, end=1),
    {"id": 4, "conversations": [{"from": "human", "value": "What?"}]},
]


def test_what_is_left_out_is_named_and_nothing_takes_its_place(library: Library, tmp_path: Path) -> None:
    manifest = library.manifest(BAD_ROWS, tmp_path)
    assert manifest.table["sample_id"].to_pylist() == ["rows.json:3"]
    left_out = {entry["sample_id"]: entry for entry in manifest.quarantine.to_pylist()}
    causes = {name: entry["cause"] for name, entry in left_out.items()}
    assert causes == {
        "rows.json:0": "Missing",
        "rows.json:1": "NotAVideo",
        "rows.json:2": "NotAPicture",
        "rows.json:4": "bad clip",
        "rows.json:5": "bad clip",
        "rows.json:6": "no answer",
    }
    assert left_out["rows.json:0"]["row"] == 0
    assert left_out["rows.json:0"]["file"] == str(tmp_path / "rows.json")
    assert "gone.mp4" in left_out["rows.json:0"]["message"]
    report = manifest.files[0]
    assert (report.rows, report.kept, report.repairs) == (7, 1, {"marker moved": 1})
    assert "7 rows, 1 samples; left out: 1 Missing, 1 NotAPicture, 1 NotAVideo, 2 bad clip, 1 no answer" in (
        manifest.summary()
    )


def folders(path: Path) -> list[Path]:
    return list((path / "manifests").iterdir()) if (path / "manifests").exists() else []


def test_too_many_left_out_rows_stop_the_run(library: Library, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"6 of 7 rows of .* are left out \(2 bad clip.*max_quarantined_fraction=0.5.*rows.json:0"
    ):
        library.manifest(BAD_ROWS, tmp_path, max_quarantined_fraction=0.5)
    assert folders(tmp_path) == []
    # also where the manifest is there already
    library.manifest(BAD_ROWS, tmp_path, max_quarantined_fraction=0.9)
    with pytest.raises(
        UserError, match=r"6 of 7 rows of .* are left out \(2 bad clip.*max_quarantined_fraction=0.5.*rows.json:0"
    ):
        library.manifest(BAD_ROWS, tmp_path, max_quarantined_fraction=0.5)


def test_an_empty_split_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"empty split: none of 1 rows of .*rows.json can be learned from .*1 Missing"):
        library.manifest(BAD_ROWS[:1], tmp_path)
    with pytest.raises(UserError, match="empty split: none of 0 rows"):
        library.manifest([], tmp_path)
    assert folders(tmp_path) == []


def test_a_sample_longer_than_a_bin_stops_the_run_or_is_left_out_but_is_never_cut(
    library: Library, tmp_path: Path
) -> None:
    rows = [row("Short?", "Yes."), row("word " * 900, "Long.")]
    with pytest.raises(UserError, match=r"row 1 has \d+ text and 0 visual tokens; a sample may have 500; shor"):
        library.manifest(rows, tmp_path, max_tokens=500)
    assert folders(tmp_path) == []
    manifest = library.manifest(rows, tmp_path, max_tokens=500, on_too_long="quarantine")
    assert manifest.quarantine["cause"].to_pylist() == ["too long"]
    no_room = [*rows[:1], row("<video>\n" + "word " * 500, "Long.", video="short.mp4")]
    with pytest.raises(UserError, match=r"row 1 has .* no room for its media beside the text"):
        library.manifest(no_room, tmp_path / "other", max_tokens=4096)


def test_unknown_keys_and_invalid_json_write_nothing(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1 has 'QA'"):
        library.manifest([ROWS[0], row("a", "b", QA=[])], tmp_path)
    assert folders(tmp_path) == []
    assert len(library.manifest([ROWS[0], row("a", "b", QA=[])], tmp_path, ignore_keys=("QA",))) == 2


def test_the_same_inputs_are_not_read_again(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = library.manifest(ROWS[:3], tmp_path)
    monkeypatch.setattr(manifest_builder, "read_rows", None)
    again = library.manifest(ROWS[:3], tmp_path)
    assert (again.uri, again.digest) == (first.uri, first.digest)
    assert again.table.equals(first.table)
    assert open_manifest(first.uri).digest == first.digest
    monkeypatch.undo()
    elsewhere = library.manifest(ROWS[:3], tmp_path / "elsewhere")
    # another place of the files is another key, but the samples are the same
    assert elsewhere.digest == first.digest


def test_a_run_goes_on_where_its_media_lie_elsewhere(library: Library, tmp_path: Path) -> None:
    """The same rows and the same bytes at another place are the same samples."""
    rows = [ROWS[0], ROWS[5], ROWS[8]]
    here = library.manifest(rows, tmp_path / "here")
    shutil.copytree(library.media, tmp_path / "media")
    there = dataclasses.replace(library, media=tmp_path / "media").manifest(rows, tmp_path / "there")
    assert there.sample(1).media[0].uri != here.sample(1).media[0].uri
    assert there.digest == here.digest
    assert library.manifest(rows[:2], tmp_path / "other").digest != here.digest


def test_everything_may_lie_on_s3(library: Library, tmp_path: Path, s3: str) -> None:
    root = f"{s3}/train-manifest"
    storage.write_bytes(f"{root}/rows.jsonl", "\n".join(map(json.dumps, ROWS[:2] + ROWS[7:8])).encode())
    storage.write_bytes(f"{root}/media/new.mp4", (library.media / "new.mp4").read_bytes())
    arguments: dict[str, Any] = {
        "files": annotation_files(f"{root}/rows.jsonl", f"{root}/media"),
        "family": library.family,
        "store": None,
        "settings": ManifestSettings(1024, max_quarantined_fraction=0.5),
    }
    manifest = build_manifest(f"{root}/manifests", **arguments)
    assert manifest.table["sample_id"].to_pylist() == ["rows.jsonl:0", "rows.jsonl:2"]
    assert manifest.quarantine["cause"].to_pylist() == ["Missing"]
    assert (
        open_manifest(manifest.uri).digest == manifest.digest == build_manifest(f"{root}/manifests", **arguments).digest
    )
    reader = Reader(manifest, library.family, None, library.online())
    sample = reader.prepare(1)
    assert isinstance(sample, PreparedSample)
    assert sample.media is not None
    assert sample.media.frame_counts.tolist() == [7]


def test_files_have_names_of_their_own() -> None:
    uris = ["file:///a/train.json", "file:///b/train.json", "file:///b/other.json", "file:///a/train.json"]
    names = file_names([AnnotationFile(uri, "") for uri in uris])
    assert names == ["a/train.json", "b/train.json", "b/other.json", "a/train.json#2"]
    assert file_names([AnnotationFile(uri, "") for uri in uris[1:3]]) == ["train.json", "other.json"]


@pytest.mark.parametrize("change", ["rows", "settings", "config", "tokenizer", "store"])
def test_whatever_decides_the_content_is_in_the_key(library: Library, tmp_path: Path, change: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS[:2]))
    files = [AnnotationFile(f"file://{path}", f"file://{library.media}")]
    arguments: dict[str, Any] = {
        "files": files,
        "family": library.family,
        "store": library.stored,
        "settings": ManifestSettings(1024),
    }
    key = manifest_builder.manifest_key(**arguments)
    assert manifest_builder.manifest_key(**arguments) == key
    if change == "rows":
        path.write_text(json.dumps(ROWS[:3]))
    else:
        config = LongVUConfig(**library.model.config.to_dict() | {"dino_threshold": 0.7})
        name, value = {
            "settings": ("settings", ManifestSettings(1000)),
            "config": ("family", LongVUFamily(config, library.tokenizer)),
            "tokenizer": ("family", LongVUFamily(library.model.config, build_tiny_tokenizer("qwen", 600))),
            "store": ("store", None),
        }[change]
        arguments[name] = value
    assert manifest_builder.manifest_key(**arguments) != key


def build(library: Library, tmp_path: Path, **changes: Any) -> Manifest:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS[3:4]))
    config = LongVUConfig(**library.model.config.to_dict() | changes)
    files = [AnnotationFile(f"file://{path}", f"file://{library.media}")]
    return build_manifest(
        str(tmp_path / "manifests"),
        files,
        LongVUFamily(config, library.tokenizer),
        library.stored,
        ManifestSettings(1024),
    )


def test_a_threshold_above_the_stores_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"below a similarity of 0.9, the model keeps frames below 0.999.*extract"):
        build(library, tmp_path, dino_threshold=0.999)
    assert folders(tmp_path) == []


def test_published_semantics_cannot_be_planned(library: Library, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train with semantics='corrected'"):
        build(library, tmp_path, semantics="published")
