"""Steps: what the plan says, whoever reads it and from wherever; what cannot be read is named and counts nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

from longvu_model.config import IGNORE_INDEX
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from pipelines import storage
from pipelines.errors import UserError
from pipelines.store import FeatureStore
from pipelines.train.families import LongVUFamily
from pipelines.train.manifest import Manifest
from pipelines.train.plan import PlanSettings, TrainingPlan
from pipelines.train.reader import PreparedSample, Reader, Step
from tests.pipelines.train.conftest import Library, row

ROWS = [
    row(f"<video>\nWhat is shown, {number}?", f"A scene, {'again ' * (number % 5)}.", video=video)
    for number, video in enumerate(["short.mp4", "scenes.mp4", "sub/long.mp4"] * 5)
] + [row(f"How much is {number} and 1?", str(number + 1)) for number in range(15)]


@pytest.fixture(scope="module")
def manifest(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return library.manifest(ROWS, tmp_path_factory.mktemp("reader"))


def plan_of(manifest: Manifest, epochs: int = 2) -> TrainingPlan:
    settings = PlanSettings(1024, global_batch_tokens=4096, planned_ranks=2)
    return TrainingPlan(manifest.costs, seed=1, epochs=epochs, settings=settings)


def reader_of(library: Library, manifest: Manifest, store: FeatureStore | None = None, **settings: object) -> Reader:
    return Reader(manifest, library.family, store or library.stored, **settings)  # type: ignore[arg-type]


def indices(step: Step) -> list[int]:
    return sorted(sample.index for members in step.bins for sample in members)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_together_read_what_the_plan_says(library: Library, manifest: Manifest, world_size: int) -> None:
    plan = plan_of(manifest)
    ranks = [list(reader_of(library, manifest).steps(plan, rank, world_size)) for rank in range(world_size)]
    assert {len(steps) for steps in ranks} == {plan.num_steps}
    for cursor in range(plan.num_steps):
        shares = [steps[cursor] for steps in ranks]
        together = sorted(index for share in shares for index in indices(share))
        assert together == sorted(plan[cursor].samples)
        assert {(share.cursor, share.epoch) for share in shares} == {(cursor, plan.locate(cursor)[0])}
        assert sum(share.target_tokens for share in shares) == shares[0].planned_target_tokens
    epoch = [index for cursor in range(len(plan.epoch(0))) for index in plan[cursor].samples]
    assert sorted(epoch) == list(range(len(ROWS)))


def test_a_cursor_goes_on_where_it_stands(library: Library, manifest: Manifest) -> None:
    plan = plan_of(manifest)
    whole = list(reader_of(library, manifest).steps(plan, 0, 2))
    for cursor in (1, plan.num_steps - 1):
        resumed = list(reader_of(library, manifest, threads=1, steps_ahead=1).steps(plan, 0, 2, cursor))
        for step, expected in zip(resumed, whole[cursor:], strict=True):
            assert step.cursor == expected.cursor
            for members, others in zip(step.bins, expected.bins, strict=True):
                for sample, other in zip(members, others, strict=True):
                    assert sample.index == other.index
                    assert torch.equal(sample.input_ids, other.input_ids)
                    if sample.media is not None and other.media is not None:
                        assert torch.equal(sample.media.dino_features, other.media.dino_features)
    assert list(reader_of(library, manifest).steps(plan, 0, 2, plan.num_steps)) == []


def test_a_sample_is_what_its_row_says(library: Library, manifest: Manifest) -> None:
    reader = reader_of(library, manifest)
    sample = reader.prepare(1)
    assert isinstance(sample, PreparedSample)
    learned = sample.labels[sample.labels != IGNORE_INDEX]
    assert library.tokenizer.decode(learned) == "A scene, again .<|im_end|>"
    assert sample.num_targets == len(learned)
    assert sample.media is not None
    assert sample.media.preselected
    assert sample.media.frame_counts.tolist() == [20]
    assert sample.media.image_sizes.tolist() == [[64, 96]]
    assert sample.media.dino_features.dtype == torch.float16
    text = reader.prepare(20)
    assert isinstance(text, PreparedSample)
    assert text.media is None
    assert text.modality == "text"


def test_a_stored_picture_is_shown_as_a_picture(library: Library, tmp_path: Path) -> None:
    rows = [row("<image>\nWhat is shown?", "Noise.", image=name) for name in ("picture.png", "new_picture.png")]
    manifest = library.manifest(rows, tmp_path)
    assert manifest.num_online == 1
    assert manifest.table["num_tokens"][0] == manifest.table["num_tokens"][1]
    reader = reader_of(library, manifest, online=library.online())
    stored, decoded = reader.prepare(0), reader.prepare(1)
    assert isinstance(stored, PreparedSample)
    assert isinstance(decoded, PreparedSample)
    assert stored.media is not None
    assert stored.media.is_video.tolist() == [False]
    assert stored.media.image_sizes.tolist() == [[48, 80]]
    assert loss(library, stored) == pytest.approx(loss(library, decoded), abs=2e-3)


def loss(library: Library, sample: PreparedSample) -> float:
    assert sample.media is not None
    with torch.no_grad():
        merged = library.model.model.see(sample.input_ids[None], sample.media, labels=sample.labels[None]).merged
        outputs = library.model(inputs_embeds=merged.inputs_embeds, labels=merged.labels)
    return float(outputs.loss)


def test_features_and_files_give_the_same_loss(library: Library, manifest: Manifest, tmp_path: Path) -> None:
    """Within float16 rounding."""
    online = library.manifest(ROWS[:3], tmp_path, store=False)
    assert online.num_online == 3
    from_files = Reader(online, library.family, online=library.online())
    from_store = reader_of(library, manifest)
    for index in range(3):
        stored, decoded = from_store.prepare(index), from_files.prepare(index)
        assert isinstance(stored, PreparedSample)
        assert isinstance(decoded, PreparedSample)
        assert stored.media is not None
        assert decoded.media is not None
        assert torch.equal(stored.media.frame_times, decoded.media.frame_times)
        assert loss(library, stored) == pytest.approx(loss(library, decoded), abs=2e-3)
    assert from_files.stats.online == 3
    assert from_store.stats.online == 0


@pytest.fixture
def copied_store(library: Library, tmp_path: Path) -> FeatureStore:
    uri = tmp_path / "store"
    shutil.copytree(storage.local_path(library.stored.uri), uri)
    return FeatureStore.open(uri)


@pytest.mark.parametrize("damage", ["gone", "overwritten", "cut"])
def test_features_that_cannot_be_read_leave_their_samples_out_by_name(
    library: Library, manifest: Manifest, copied_store: FeatureStore, damage: str
) -> None:
    copied_store.videos(["video_id"])  # the index is read before the damage is done
    for file in storage.local_path(copied_store.uri).glob("frames/*.parquet"):
        whole = file.read_bytes()
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"\0" * len(whole) if damage == "overwritten" else whole[: len(whole) // 2])
    plan = plan_of(manifest, epochs=1)
    reader = reader_of(library, manifest, copied_store)
    steps = list(reader.steps(plan, 0, 1))
    unreadable = {one.sample_id: one for step in steps for one in step.unreadable}
    assert sorted(unreadable) == sorted(f"rows.json:{index}" for index in range(15))
    assert {one.cause for one in unreadable.values()} == {"bad features"}
    assert "short.mp4" in unreadable["rows.json:0"].message
    assert reader.stats.unreadable == 15
    assert reader.stats.samples == 15
    # what is left is learned, and only that is counted
    assert sorted(index for step in steps for index in indices(step)) == list(range(15, 30))
    targets = manifest.table["num_target_tokens"].to_pylist()
    assert sum(step.target_tokens for step in steps) == sum(targets[15:])
    assert sum(step.planned_target_tokens for step in steps) == sum(targets)


def test_a_file_that_broke_since_is_left_out_by_name(library: Library, tmp_path: Path) -> None:
    library.media.joinpath("new_brief.mp4").write_bytes(library.media.joinpath("new.mp4").read_bytes())
    rows = [row("<video>\nWhat?", "This.", video=name) for name in ("new.mp4", "new_brief.mp4")]
    online = library.manifest(rows, tmp_path)
    library.media.joinpath("new_brief.mp4").write_text("no longer a video")
    reader = reader_of(library, online, online=library.online())
    assert isinstance(reader.prepare(0), PreparedSample)
    broken = reader.prepare(1)
    assert not isinstance(broken, PreparedSample)
    assert (broken.sample_id, broken.cause) == ("rows.json:1", "NotAVideo")


def test_a_service_that_does_not_answer_stops_the_run(
    library: Library, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the sample's; nothing must be left out for it."""

    def fails(*_: object, **__: object) -> None:
        raise storage.StorageError("s3://bucket: no answer")

    monkeypatch.setattr(library.stored, "load", fails)
    reader = reader_of(library, manifest)
    with pytest.raises(storage.StorageError, match="no answer"):
        list(reader.steps(plan_of(manifest, 1), 0, 1))


def test_steps_are_prepared_ahead_and_what_was_waited_for_is_counted(
    library: Library, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(library, manifest, steps_ahead=1)
    prepare, begun, allowed = reader.prepare, threading.Event(), threading.Event()
    plan = plan_of(manifest, epochs=1)
    second = set(plan[1].samples)

    def held_back(index: int) -> object:
        if index in second:
            begun.set()
            assert allowed.wait(30)
        return prepare(index)

    monkeypatch.setattr(reader, "prepare", held_back)
    steps = reader.steps(plan, 0, 1)
    next(steps)
    assert begun.wait(30), "the second step is prepared while the first is in the caller's hands"
    threading.Timer(0.3, allowed.set).start()
    assert next(steps).stall_s >= 0.2
    assert reader.stats.stall_s >= 0.2
    assert 0 < reader.stats.stall_share < 1
    assert reader.stats.steps == 2
    assert reader.stats.feature_bytes > 0
    steps.close()


def test_what_is_no_longer_wanted_is_not_prepared(library: Library, manifest: Manifest) -> None:
    reader = reader_of(library, manifest, threads=1)
    steps = reader.steps(plan_of(manifest), 0, 1)
    next(steps)
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_another_tokenizer_than_the_manifests_is_refused(library: Library, manifest: Manifest) -> None:
    other = build_tiny_tokenizer("qwen", 400)
    reader = Reader(manifest, LongVUFamily(library.model.config, other), library.stored)
    with pytest.raises(UserError, match=r"sample rows.json:0 was planned with \d+ text tokens and has \d+ now"):
        reader.prepare(0)


def test_media_that_are_nowhere_need_an_encoder(library: Library, manifest: Manifest, tmp_path: Path) -> None:
    online = library.manifest(ROWS[:3], tmp_path, store=False)
    with pytest.raises(UserError, match="3 of 3 samples have media that are not in the feature store"):
        Reader(online, library.family)
    with pytest.raises(UserError, match="give it to the reader"):
        Reader(manifest, library.family).prepare(0)
    with pytest.raises(UserError, match="threads=0"):
        reader_of(library, manifest, threads=0)
