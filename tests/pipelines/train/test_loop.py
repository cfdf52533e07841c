"""The loop in one process: a run that is interrupted is the same run, and what is out of the ordinary is dealt with."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from longvu_model.modeling import LongVUForConditionalGeneration
from pipelines.errors import UserError
from pipelines.train import checkpoint
from pipelines.train.config import TrainConfig
from pipelines.train.engine_state import CheckpointMismatch
from pipelines.train.export import export
from pipelines.train.loop import Halted, train
from pipelines.train.prepared import PreparedSample, Unreadable
from pipelines.train.reader import Reader
from pipelines.train.run import Run, prepare
from pipelines.train.world import World
from tests.pipelines.train.conftest import Library
from tests.pipelines.train.small_run import STEPS, Account, account, begin, make_config, read_audit, run_here


@pytest.fixture(scope="module")
def model(workdir: Path) -> Path:
    return workdir / "models" / "tiny"


@pytest.fixture(autouse=True)
def local_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def config(library: Library, folder: Path, **changes: Any) -> TrainConfig:
    return make_config(folder, library.media, library.stored.uri, **changes)


@pytest.fixture(scope="module")
def undisturbed(library: Library, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Account:
    settings = config(library, tmp_path_factory.mktemp("undisturbed"))
    run = prepare(settings, model).run
    outcome = run_here(settings, model)
    assert outcome.cursor == outcome.num_steps == STEPS
    assert outcome.metrics["heldout/loss"] < 4
    return account(run)


def assert_same(found: Account, expected: Account) -> None:
    """Bit for bit, each step once, each sample once per epoch."""
    assert found.losses == expected.losses
    assert sorted(found.losses) == list(range(1, STEPS + 1)) and found.runs == 1
    assert all(len(values) == 1 for values in found.losses.values())
    assert found.samples == expected.samples
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


def test_every_sample_is_learned_once_per_epoch_and_the_loss_falls(undisturbed: Account) -> None:
    assert [dict(counts) for counts in undisturbed.samples.values()] == [dict.fromkeys(range(24), 1)] * 2
    losses = [values[0] for _, values in sorted(undisturbed.losses.items())]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_nothing_had_been(
    library: Library, model: Path, tmp_path: Path, undisturbed: Account
) -> None:
    settings = config(library, tmp_path)
    run = prepare(settings, model).run
    first = run_here(settings, model, stop_at=3)
    assert (first.notice, first.cursor) == ("stop", 3)
    second = run_here(settings, model, stop_at=8)
    assert (second.notice, second.cursor) == ("stop", 11)
    assert run_here(settings, model).cursor == STEPS
    assert run_here(settings, model).cursor == STEPS  # nothing left to do
    found = account(run)
    assert_same(found, undisturbed)
    assert found.lost == [0, 0]


def train_in_child(run: Run) -> None:
    from pipelines.train.materials import make_materials

    train(make_materials(run, torch.device("cpu")), World())


def test_a_run_killed_at_random_moments_is_the_same_run(
    library: Library, model: Path, tmp_path: Path, undisturbed: Account
) -> None:
    settings = config(library, tmp_path)
    run = prepare(settings, model).run
    context, chance = multiprocessing.get_context("forkserver"), random.Random(1)
    context.set_forkserver_preload(["pipelines.train.materials", "pipelines.train.loop", __name__])
    for steps in (2, 9, 15):
        child = context.Process(target=train_in_child, args=(run,))
        child.start()
        while max((line["cursor"] for lines in read_audit(tmp_path / "audit") for _, line in lines), default=0) < steps:
            assert child.is_alive()
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert run_here(settings, model).cursor == STEPS
    found = account(run)
    assert_same(found, undisturbed)
    assert len(found.lost) == 3 and max(found.lost) <= settings.checkpoint.every_steps


def test_the_last_and_the_best_checkpoint_are_there(library: Library, model: Path, tmp_path: Path) -> None:
    settings = config(library, tmp_path, checkpoint={"every_steps": 4, "keep_last": 2, "asynchronous": False})
    run = prepare(settings, model).run
    run_here(settings, model)
    found = checkpoint.finished(run.checkpoints)
    scores = found[0].progress.scores
    assert sorted(scores) == [10, 20, 24] and all(math.isfinite(score) for score in scores.values())
    best = min(scores, key=lambda cursor: scores[cursor])
    assert {one.cursor for one in found} == {24, 22, best}


class Poisoned(Reader):
    """A reader that gives one sample in another form."""

    def spoil(self, row: str, how: str) -> Poisoned:
        self.victim, self.how = row, how
        return self

    def prepare(self, index: int) -> PreparedSample | Unreadable:
        found = super().prepare(index)
        if found.sample_id.rpartition(":")[2] != self.victim or isinstance(found, Unreadable):
            return found
        if self.how == "unreadable":
            return Unreadable(index, found.sample_id, "gone", "the disk is broken")
        if self.how == "nan":
            assert found.media is not None and found.media.dino_features is not None
            broken = found.media.dino_features * math.nan
            return dataclasses.replace(found, media=dataclasses.replace(found.media, dino_features=broken))
        labels = torch.where(found.labels >= 0, (found.labels * 31 + 77) % 256, found.labels)
        return dataclasses.replace(found, labels=labels)


def train_poisoned(settings: TrainConfig, model: Path, victim: str, how: str) -> Run:
    materials = begin(settings, model)
    materials.reader.__class__ = Poisoned
    assert isinstance(materials.reader, Poisoned)
    materials.reader.spoil(victim, how)
    train(materials, World())
    return materials.run


def watched(library: Library, folder: Path, **watch: Any) -> TrainConfig:
    watch = {"warmup": 8, "window": 12, "threshold": 8, **watch}
    return config(library, folder, watch=watch, checkpoint={"every_steps": 6})


def refused_steps(run: Run, folder: Path) -> dict[int, str]:
    """What MLflow has been told, by step."""
    from mlflow.tracking import MlflowClient

    from pipelines.tracking import tracking_uri

    client = MlflowClient(tracking_uri=tracking_uri(folder))
    (found,) = client.search_runs([client.get_experiment_by_name("longvu").experiment_id])
    assert sorted(m.step for m in client.get_metric_history(found.info.run_id, "loss")) == list(range(1, STEPS + 1))
    events = [text for name, text in sorted(found.data.tags.items()) if name.startswith("longvu.event.")]
    refused = [m.step for m in client.get_metric_history(found.info.run_id, "refused") if m.value]
    return dict(zip(refused, events, strict=True))


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_sample_whose_loss_is_no_number_changes_nothing_and_is_named(
    library: Library, model: Path, tmp_path: Path, policy: str
) -> None:
    run = train_poisoned(watched(library, tmp_path, non_finite=policy), model, "5", "nan")
    told = refused_steps(run, tmp_path)
    assert len(told) == 2  # once per epoch
    assert all(re.search(rf"a loss of nan; because of \S*:5; {policy}", text) for text in told.values())
    lines = [line for lines in read_audit(tmp_path / "audit") for _, line in lines]
    assert [line["cursor"] + 1 for line in lines if not line["learned"]] == list(told)
    assert all(torch.isfinite(t).all() for t in account(run).weights.values())


def test_a_spike_is_refused_and_the_run_rewound(library: Library, model: Path, tmp_path: Path) -> None:
    """The weights are those of the checkpoint before the spike; what came in between is not learned."""
    settings = watched(library, tmp_path, spike="rewind", window=8, threshold=3)
    settings = settings.changed(stage=settings.stage.changed(learning_rate=5e-3))  # so that there is a floor to leave
    run = train_poisoned(settings, model, "7", "labels")
    told = refused_steps(run, tmp_path)
    assert told and all(re.search(r"because of \S*:7; rewind", text) for text in told.values())
    assert account(run).losses.keys() == set(range(1, STEPS + 1))


def test_halting_names_the_sample_and_what_to_do_and_keeps_the_checkpoint_before(
    library: Library, model: Path, tmp_path: Path
) -> None:
    settings = watched(library, tmp_path, non_finite="halt")
    with pytest.raises(Halted, match=r"halted at step \d+: a loss of nan; because of \S*:5\. Mend .* watch.non_finite"):
        train_poisoned(settings, model, "5", "nan")
    assert checkpoint.finished(prepare(settings, model).run.checkpoints)
    with pytest.raises(Halted, match=r"after 1 others \(watch.most_refused\)"):
        train_poisoned(watched(library, tmp_path, non_finite="skip", most_refused=1), model, "5", "nan")


def test_a_sample_that_cannot_be_read_is_left_out_by_name(library: Library, model: Path, tmp_path: Path) -> None:
    run = train_poisoned(config(library, tmp_path), model, "5", "unreadable")
    found = account(run)
    assert [counts[5] for counts in found.samples.values()] == [0, 0]
    assert [counts[4] for counts in found.samples.values()] == [1, 1]
    tags = _tags(tmp_path)
    assert sum(":5: gone: the disk is broken" in text for text in tags.values()) == 2


def _tags(folder: Path) -> dict[str, str]:
    from mlflow.tracking import MlflowClient

    from pipelines.tracking import tracking_uri

    client = MlflowClient(tracking_uri=tracking_uri(folder))
    (found,) = client.search_runs([client.get_experiment_by_name("longvu").experiment_id])
    return dict(found.data.tags)


def test_a_damaged_checkpoint_is_passed_over_and_said(
    library: Library, model: Path, tmp_path: Path, undisturbed: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(library, tmp_path)
    run = prepare(settings, model).run
    run_here(settings, model, stop_at=7)
    newest = checkpoint.finished(run.checkpoints)[0]
    shard = Path(newest.uri.removeprefix("file://")) / newest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-8])
    run_here(settings, model)
    said = capsys.readouterr().err
    assert f"checkpoint of step 7 passed over: {shard} is not what was written" in said
    assert "continuing at step 6" in said
    found = account(run)
    assert found.losses == undisturbed.losses
    assert all(torch.equal(found.weights[name], undisturbed.weights[name]) for name in undisturbed.weights)


def test_other_data_or_another_choice_of_parts_cannot_continue_a_run(
    library: Library, model: Path, tmp_path: Path
) -> None:
    settings = config(library, tmp_path)
    run_here(settings, model, stop_at=2)
    rows = Path(settings.data.annotations)
    text = rows.read_text()
    rows.write_text(text.replace("number 3?", "number 33?"))
    with pytest.raises(UserError, match="trained on other batches than these: the annotations"):
        prepare(settings, model)
    rows.write_text(text)
    frozen = settings.changed(stage=settings.stage.changed(frozen=("towers", "projector")))
    os.rename(Path(settings.run_uri.removeprefix("file://")), Path(frozen.run_uri.removeprefix("file://")))
    with pytest.raises(CheckpointMismatch, match=r"not trained here: model\.frame_tokens\.projector"):
        run_here(frozen, model)


def test_a_run_on_s3_goes_on_and_is_exported(
    library: Library, model: Path, tmp_path: Path, s3: str, undisturbed: Account
) -> None:
    settings = config(library, tmp_path, output=f"{s3}/training")
    run_here(settings, model, stop_at=5)
    done = run_here(settings, model)
    assert (done.cursor, done.metrics["loss"]) == (STEPS, undisturbed.losses[STEPS][0])
    export(done.checkpoint, tmp_path / "ours")
    export(done.checkpoint, tmp_path / "published", "published")
    for folder in ("ours", "published"):
        found = dict(LongVUForConditionalGeneration.from_pretrained(tmp_path / folder).named_parameters())
        for name, expected in undisturbed.weights.items():
            if name.startswith("master/"):
                assert torch.equal(found[name.removeprefix("master/")].detach().view(-1), expected), name
    with pytest.raises(UserError, match="exists already"):
        export(done.checkpoint, tmp_path / "ours")
    with pytest.raises(UserError, match="no finished checkpoint"):
        export(f"{s3}/training", tmp_path / "new")
