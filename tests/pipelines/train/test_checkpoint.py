"""Checkpoints: whole or not there, whatever kills the writer; which are kept; what damage is seen."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines import storage
from pipelines.errors import UserError
from pipelines.train import checkpoint
from pipelines.train.checkpoint import COMMIT, Progress

METADATA = {"steps": "0", "shapes": "{}"}


def tensors(cursor: int) -> dict[str, Tensor]:
    return {"master/0/weight": torch.full((1 << 16,), float(cursor)), "exp_avg/0/weight": torch.arange(cursor + 1.0)}


def progress(cursor: int, **changes: object) -> Progress:
    return Progress(cursor, "plan", "config", "model", 1, **changes)  # type: ignore[arg-type]


def write(root: str, cursor: int, start: str = "start", ranks: int = 2, **changes: object) -> checkpoint.Checkpoint:
    uri = checkpoint.checkpoint_uri(root, cursor, start)
    shards = [checkpoint.write_shard(uri, tensors(cursor), METADATA, rank, ranks) for rank in range(ranks)]
    return checkpoint.write_commit(uri, shards, progress(cursor, **changes))


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return storage.resolve(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3')}/checkpoints-{os.urandom(4).hex()}"


def test_a_checkpoint_is_read_as_it_was_written(root: str) -> None:
    records = [(3, {"loss": 1.25}), (4, {"loss": 0.5})]
    written = write(root, 4, scores={2: 1.5, 4: 0.75}, losses=(1.25, 0.5), records=records, events=("seen",))
    write(root, 2)
    (newest, older) = checkpoint.finished(root)
    assert newest == written.__class__(written.uri, written.shards, newest.progress)
    assert newest.progress.scores == {2: 1.5, 4: 0.75} and newest.progress.records == records
    assert list(newest.progress.losses) == [1.25, 0.5] and older.cursor == 2
    assert newest.damage() is None
    with newest.local_folder() as folder:
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")
        assert names == ["shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"]


def test_what_has_no_commit_does_not_exist_and_is_swept(root: str) -> None:
    write(root, 2)
    uri = checkpoint.checkpoint_uri(root, 9, "killed")
    checkpoint.write_shard(uri, tensors(9), METADATA, 0, 2)
    assert [found.cursor for found in checkpoint.finished(root)] == [2]
    with pytest.raises(UserError, match="no finished checkpoint"):
        checkpoint.read_commit(uri)
    checkpoint.remove_unfinished(root)
    assert not list(storage.listing(uri))
    assert [found.damage() for found in checkpoint.finished(root)] == [None]


def test_damage_is_seen_by_the_rank_that_reads_the_file(root: str) -> None:
    found = write(root, 3)
    shard = storage.join(found.uri, found.shards[1].name)
    data = bytearray(storage.read_bytes(shard))
    data[-1] ^= 1
    storage.write_bytes(shard, bytes(data))
    assert found.damage(0, 2) is None
    assert "is not what was written" in str(found.damage(1, 2))
    storage.remove(shard)
    assert "is gone" in str(found.damage())


def test_the_last_few_and_the_best_are_kept(root: str) -> None:
    scores = {2: 0.9, 4: 0.3, 6: 0.5, 8: 0.7}
    for cursor in (2, 4, 6, 8, 10):
        write(root, cursor, ranks=1, scores={at: score for at, score in scores.items() if at <= cursor})
    checkpoint.remove_superseded(root, keep_last=2, keep_best=True)
    assert [found.cursor for found in checkpoint.finished(root)] == [10, 8, 4]
    checkpoint.remove_superseded(root, keep_last=1, keep_best=False)
    assert [found.cursor for found in checkpoint.finished(root)] == [10]
    assert {item.uri.rpartition("/")[2] for item in storage.listing(root, recursive=True)} == {
        COMMIT,
        "shard-00000-of-00001.safetensors",
    }


def write_forever(root: str, start: str, told: Path) -> None:
    """Checkpoints one after another, and after each a note that it counts."""
    for cursor in range(1 << 20):
        write(root, cursor, start)
        with told.open("a") as file:
            file.write(f"{cursor}\n")


def test_a_killed_writer_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    """SIGKILL at random moments of a process that does nothing but write."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance, root = random.Random(0), storage.resolve(tmp_path / "checkpoints")
    torn = 0
    for number in range(12):
        told = tmp_path / f"told-{number}"
        writer = context.Process(target=write_forever, args=(root, f"start{number}", told))
        writer.start()
        while not told.exists() or "\n" not in told.read_text():
            assert writer.is_alive()
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        mine = [found for found in checkpoint.finished(root) if found.uri.endswith(f"start{number}")]
        assert mine[0].cursor >= int(told.read_text().split()[-1])
        assert not [found.damage() for found in mine if found.damage()]
        folders = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.endswith(f"start{number}")]
        torn += len(folders) - len(mine)
        checkpoint.remove_superseded(root, keep_last=1, keep_best=False)
    assert torn, "no kill came in the middle of a checkpoint: the test shows nothing"
    checkpoint.remove_unfinished(root)
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(checkpoint.finished(root)) == 1
