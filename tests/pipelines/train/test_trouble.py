"""The loop in trouble: storage that fails, media that go, checkpoints that are damaged, a second start, a hurry."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from longvu_model.modeling import LongVUForConditionalGeneration
from pipelines import storage
from pipelines.errors import JobStopped, UserError
from pipelines.tracking import tracking_uri
from pipelines.train import checkpoint
from pipelines.train.checkpoint import Progress
from pipelines.train.checkpoint_writer import CheckpointWriter
from pipelines.train.config import TrainConfig
from pipelines.train.engine_state import CheckpointMismatch
from pipelines.train.export import export
from pipelines.train.loop import train
from pipelines.train.materials import Materials
from pipelines.train.records import Recorder
from pipelines.train.run import Run, prepare
from pipelines.train.stages import LoraSettings
from pipelines.train.torch_engine import TorchEngine
from pipelines.train.world import World
from tests.pipelines.train import problem
from tests.pipelines.train.conftest import Library, row
from tests.pipelines.train.small_run import STEPS, account, begin, make_config, run_here, stop_after, weights

EVERY_STEP = {"every_steps": 1, "keep_last": 1, "keep_best": False, "asynchronous": False}


@pytest.fixture(scope="module")
def model(workdir: Path) -> Path:
    return workdir / "models" / "tiny"


@pytest.fixture(autouse=True)
def local_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def settings(library: Library, tmp_path: Path) -> TrainConfig:
    return make_config(tmp_path, library.media, library.stored.uri)


def damage(found: checkpoint.Checkpoint) -> None:
    shard = storage.local_path(storage.join(found.uri, found.shards[0].name))
    shard.write_bytes(shard.read_bytes()[:-8])


def test_a_damaged_checkpoint_does_not_count_among_the_newest(settings: TrainConfig, model: Path) -> None:
    settings = settings.changed(checkpoint={"every_steps": 4, "keep_last": 2, "keep_best": False})
    checkpoints = prepare(settings, model).run.checkpoints
    run_here(settings, model, stop_at=9)
    damage(checkpoint.finished(checkpoints)[0])
    run_here(settings.changed(checkpoint=EVERY_STEP), model, stop_at=1)  # what it saves is older than the damaged one
    assert [(found.cursor, found.damage()) for found in checkpoint.finished(checkpoints)] == [(9, None)]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(settings: TrainConfig, model: Path) -> None:
    run_here(settings, model, stop_at=5)
    left = checkpoint.finished(prepare(settings, model).run.checkpoints)
    for found in left:
        damage(found)
    with pytest.raises(CheckpointMismatch, match="all 2 checkpoints are damaged; bring one back"):
        run_here(settings, model)
    assert checkpoint.finished(prepare(settings, model).run.checkpoints) == left


def test_a_commit_that_fails_stops_the_run_and_the_next_start_goes_on(
    settings: TrainConfig, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write_commit

    def full(uri: str, shards: Any, progress: Progress) -> checkpoint.Checkpoint:
        if progress.cursor >= 4:
            raise storage.StorageError(f"{uri}: no space left")
        return write(uri, shards, progress)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_commit", full)
        with pytest.raises(JobStopped, match=r"could not be written: .*00000004-.*no space left; the same command"):
            run_here(settings, model)
    assert run_here(settings, model).cursor == STEPS
    assert sorted(account(prepare(settings, model).run).losses) == list(range(1, STEPS + 1))


class Weight(nn.Module):
    """As much of an engine as a checkpoint's writer asks for."""

    steps = 0

    def snapshot(self) -> dict[str, torch.Tensor]:
        return {"master/0/weight": torch.ones(8)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (8,)}


def write_on_two(rank: int, folder: Path) -> dict[str, str]:
    """What each rank is told when a thread of the first one fails: before a commit, and after one."""
    told = {}

    def fail(*_: Any) -> Any:
        raise storage.StorageError("the bucket is gone")

    for where, finish, settled in (("before", fail, lambda _: None), ("after", lambda progress: progress, fail)):
        root, world = storage.resolve(folder / where), World()
        writer = CheckpointWriter(root, "start", world, None, finish, settled)
        try:
            for cursor in range(100):
                if cursor % 10 == 0:
                    writer.begin(Weight(), Progress(cursor, "", "", "", 2))  # type: ignore[arg-type]
                states = world.exchange(writer.state)
                writer.advance(bool(states[:, 0].all()), float(states[0, 1]))
        except JobStopped as error:
            told[where] = str(error)
    return told


def test_all_ranks_stop_when_the_thread_of_one_fails(tmp_path: Path) -> None:
    said = "a checkpoint could not be written: the bucket is gone; the same command continues"
    assert problem.run_workers(2, write_on_two, tmp_path, tmp_path) == [{"before": said, "after": said}] * 2


def test_an_old_checkpoint_that_cannot_be_deleted_costs_no_run(
    settings: TrainConfig, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove, calls = checkpoint.remove_superseded, []

    def shaky(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:  # tried again
            raise ConnectionResetError("reset")
        if len(calls) == 5:  # not tried again
            raise storage.StorageError("forbidden")
        remove(*arguments)

    monkeypatch.setattr(checkpoint, "remove_superseded", shaky)
    assert run_here(settings, model).cursor == STEPS
    assert capsys.readouterr().err.count("old checkpoints could not be deleted: forbidden") == 1
    assert len(checkpoint.finished(prepare(settings, model).run.checkpoints)) <= 3


def die_after_the_last_commit(run: Run) -> None:
    """Before its steps are given to MLflow."""
    from pipelines.train.materials import make_materials

    record = Recorder.add

    def add(recorder: Recorder, done: checkpoint.Checkpoint) -> None:
        if done.cursor == STEPS:
            os._exit(9)
        record(recorder, done)

    Recorder.add = add  # type: ignore[method-assign]
    train(make_materials(run, torch.device("cpu")), World())


def test_the_last_steps_are_recorded_though_nothing_is_left_to_do(settings: TrainConfig, model: Path) -> None:
    run = prepare(settings, model).run
    child = multiprocessing.get_context("spawn").Process(target=die_after_the_last_commit, args=(run,))
    child.start()
    child.join()
    assert child.exitcode == 9 and checkpoint.finished(run.checkpoints)[0].cursor == STEPS
    assert max(account(run).losses) < STEPS
    assert run_here(settings, model).cursor == STEPS
    assert sorted(account(run).losses) == list(range(1, STEPS + 1))
    (recorded,) = MlflowClient(tracking_uri=tracking_uri(Path(settings.workdir))).search_runs(["1"])
    assert recorded.info.status == "FINISHED"


def test_a_second_start_stops_the_first(settings: TrainConfig, model: Path) -> None:
    """The first goes on as a worker would that outlives its driver: it commits nothing more."""
    settings = settings.changed(checkpoint=EVERY_STEP)
    seen = []

    def notice() -> str:
        seen.append(1)
        if len(seen) == 6:
            assert run_here(settings, model, stop_at=2).notice == "stop"
        return ""

    materials = begin(settings, model)
    with pytest.raises(JobStopped, match=r"another start of the run in .* has begun since this one"):
        train(materials, World(), notice)
    (found,) = checkpoint.finished(materials.run.checkpoints)
    assert found.cursor == 7 and found.damage() is None  # 5 by the first, and two more
    assert run_here(settings, model).cursor == STEPS
    assert all(len(values) == 1 for values in account(materials.run).losses.values())


def film_rows(path: Path, number: int, video: str) -> None:
    """Annotations that all show one film, which no store has."""
    path.write_text(json.dumps([{**row(f"What {n}?", "Red."), "id": n, "video": video} for n in range(number)]))


def online(settings: TrainConfig, media: Path, **changes: Any) -> TrainConfig:
    return settings.changed(data=settings.data.changed(media_root=str(media), store=None), **changes)


def removing(path: Path, step: int) -> Callable[[], str]:
    """Take a file away before a step."""
    seen = []

    def notice() -> str:
        seen.append(1)
        if len(seen) == step:
            path.unlink()
        return ""

    return notice


def test_media_that_vanish_stop_the_run(settings: TrainConfig, library: Library, model: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(library.media, media)
    film_rows(Path(settings.data.annotations), 40, "new.mp4")
    settings = online(settings, media)
    told = r"2[01] of the last \d+ samples could not be read, more than data.max_quarantined_fraction=0.1 allows"
    with pytest.raises(JobStopped, match=told):
        train(begin(settings, model), World(), removing(media / "new.mp4", 8))
    shutil.copy(library.media / "new.mp4", media / "new.mp4")
    assert run_here(settings, model).cursor == 40


def test_scores_of_fewer_samples_are_named_and_not_compared(
    settings: TrainConfig, library: Library, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tmp_path / "media"
    shutil.copytree(library.media, media)
    film_rows(Path(str(settings.data.heldout)), 4, "new.mp4")
    settings = online(settings, media)
    materials = begin(settings, model)
    train(materials, World(), removing(media / "new.mp4", 15))
    scores = checkpoint.finished(materials.run.checkpoints)[0].progress.scores
    assert sorted(scores) == [10]
    said = capsys.readouterr().err
    assert "evaluation at step 24: left out" in said and "its score is not compared with others" in said


def test_scores_of_other_held_out_samples_are_forgotten(settings: TrainConfig, model: Path) -> None:
    run_here(settings, model, stop_at=12)
    heldout = Path(str(settings.data.heldout))
    heldout.write_text(json.dumps(json.loads(heldout.read_text())[:1]))
    run_here(settings, model)
    scores = checkpoint.finished(prepare(settings, model).run.checkpoints)[0].progress.scores
    assert sorted(scores) == [20, STEPS]


def test_a_part_of_the_held_out_samples_is_always_the_same(settings: TrainConfig, model: Path) -> None:
    settings = settings.changed(evaluation={"every_steps": 10, "most_samples": 2})
    shown = [begin(settings, model).heldout for _ in range(2)]
    ids = [reader.manifest.table["sample_id"].to_pylist() for reader in shown if reader]
    assert ids[0] == ids[1] and len(ids[0]) == 2
    assert math.isfinite(run_here(settings, model).metrics["heldout/loss"])


def test_who_has_to_go_saves_first_and_the_next_start_evaluates(settings: TrainConfig, model: Path) -> None:
    first = run_here(settings, model, stop_at=10)
    checkpoints = prepare(settings, model).run.checkpoints
    newest = checkpoint.finished(checkpoints)[0]
    assert (first.cursor, newest.cursor, dict(newest.progress.scores)) == (10, 10, {})
    assert run_here(settings, model).cursor == STEPS
    assert sorted(checkpoint.finished(checkpoints)[0].progress.scores) == [10, 20, STEPS]
    client = MlflowClient(tracking_uri=tracking_uri(Path(settings.workdir)))
    (recorded,) = client.search_runs(["1"])
    for name, steps in (("loss", range(1, STEPS + 1)), ("heldout/loss", (10, 20, STEPS))):
        assert [metric.step for metric in client.get_metric_history(recorded.info.run_id, name)] == list(steps)


def spoiling(materials: Materials, step: int) -> Materials:
    """The same with an engine whose update of one step ruins the weights."""
    engine, updates = materials.engine, itertools.count()
    assert isinstance(engine, TorchEngine)
    update = engine.update

    def spoil(lr_factor: float) -> float:
        norm = update(lr_factor)
        if next(updates) == step:
            for weight in engine.masters.values():
                weight.data.neg_()
        return norm

    engine.update = spoil  # type: ignore[method-assign]
    return materials


def test_a_rewind_passes_over_a_checkpoint_of_spoiled_weights(
    settings: TrainConfig, library: Library, model: Path, tmp_path: Path
) -> None:
    """One is written after the update that ruined them and before the loss that shows it; interrupted there or not."""
    found = {}
    for stop_at in (None, 12):
        chosen = make_config(
            tmp_path / str(stop_at),
            library.media,
            library.stored.uri,
            stage=settings.stage.changed(learning_rate=5e-3),
            watch={"warmup": 8, "window": 8, "threshold": 3},
            checkpoint={"every_steps": 4},
        )
        begun = spoiling(begin(chosen, model), 11)
        train(begun, World(), stop_after(stop_at))
        if stop_at is not None:
            assert checkpoint.finished(begun.run.checkpoints)[0].cursor == stop_at
            run_here(chosen, model)
        found[stop_at] = account(begun.run)
        (newest, *_) = checkpoint.finished(begun.run.checkpoints)
        assert newest.cursor == STEPS and newest.progress.num_refused == 1
    whole, interrupted = found[None], found[12]
    assert all(torch.equal(whole.weights[name], interrupted.weights[name]) for name in whole.weights)
    assert whole.losses == interrupted.losses and max(whole.losses[STEPS]) < whole.losses[13][0] - 1


def test_a_gradient_that_is_no_number_changes_nothing(
    settings: TrainConfig, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a sound loss; under skip, nothing is loaded again."""
    settings = settings.changed(watch={"non_finite": "skip"})
    materials = begin(settings, model)
    engine, steps = materials.engine, []
    backward, load = engine.backward, engine.load

    def overflow(*arguments: Any) -> Any:
        results = backward(*arguments)
        steps.append(1)
        if len(steps) == 12:
            gradient = next(parameter.grad for parameter in engine.trained.values() if parameter.grad is not None)
            gradient.fill_(math.inf)
        return results

    loaded: list[Any] = []
    engine.backward, engine.load = overflow, lambda folder: (loaded.append(folder), load(folder))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    train(materials, World())
    assert "step 11: a gradient of norm inf" in capsys.readouterr().err
    assert not loaded and engine.steps == STEPS - 1
    assert all(bool(parameter.isfinite().all()) for parameter in engine.trained.values())


def changed_copy(model: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model of the same shapes with other weights."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    other = LongVUForConditionalGeneration.from_pretrained(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.03)
    other.to(dtype).save_pretrained(folder)  # type: ignore[call-arg]
    return folder


def test_another_base_under_the_same_name_is_refused(settings: TrainConfig, model: Path, tmp_path: Path) -> None:
    """Checkpoints of adapters have no other weights: going on, or exporting, would mix two models."""
    base = tmp_path / "base"
    shutil.copytree(model, base)
    stage = settings.stage.changed(lora=LoraSettings(rank=2))
    settings = settings.changed(model=str(base), stage=stage)
    done = run_here(settings, base, stop_at=3)
    changed_copy(model, base)
    with pytest.raises(UserError, match="started from another checkpoint than model="):
        prepare(settings, base)
    with pytest.raises(UserError, match=r"is no longer the model that .* started from"):
        export(done.checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_began_in_half_precision_is_exported_as_it_was_trained(
    settings: TrainConfig, model: Path, tmp_path: Path
) -> None:
    """The weights, and their average over steps."""
    base = changed_copy(model, tmp_path / "base", torch.bfloat16)
    data = settings.data.changed(store=None, online=True)
    settings = settings.changed(model=str(base), data=data, stage=settings.stage.changed(ema_decay=0.9))
    done = run_here(settings, base, stop_at=5)
    found = checkpoint.finished(prepare(settings, base).run.checkpoints)[0]
    for kind, average in (("master", False), ("average", True)):
        export(done.checkpoint, tmp_path / kind, average=average)
        exported = dict(LongVUForConditionalGeneration.from_pretrained(tmp_path / kind).named_parameters())
        for name, expected in weights(found).items():
            if name.startswith(f"{kind}/"):
                assert torch.equal(exported[name.removeprefix(f"{kind}/")].detach().view(-1), expected), name
    assert not torch.equal(
        *(
            next(tensor for name, tensor in weights(found).items() if name.startswith(k))
            for k in ("master/", "average/")
        )
    )


def test_an_average_that_was_not_kept_cannot_be_exported(settings: TrainConfig, model: Path, tmp_path: Path) -> None:
    done = run_here(settings, model, stop_at=1)
    with pytest.raises(CheckpointMismatch, match=r"holds no average; averages are kept with stage\.ema_decay"):
        export(done.checkpoint, tmp_path / "out", average=True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_told_in_a_line(settings: TrainConfig, model: Path, tmp_path: Path) -> None:
    done = run_here(settings, model, stop_at=1)
    found = storage.local_path(done.checkpoint)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out: cannot be made"):
        export(done.checkpoint, tmp_path / "file" / "out")
    shutil.copytree(found, tmp_path / "apart" / "checkpoints" / found.name)
    with pytest.raises(UserError, match=r"apart/run.json is missing: export a checkpoint from where its run wrote it"):
        export(str(tmp_path / "apart" / "checkpoints" / found.name), tmp_path / "out")
    commit = found / checkpoint.COMMIT
    commit.write_text(commit.read_text()[:-40])
    with pytest.raises(UserError, match=r"commit.json is damaged; bring it back, or delete the folder"):
        export(done.checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_notice_in_the_last_step_changes_nothing(settings: TrainConfig, model: Path) -> None:
    outcome = train(begin(settings, model), World(), stop_after(STEPS))
    assert outcome.cursor == STEPS and math.isfinite(outcome.metrics["heldout/loss"])
