"""Checkpoints as they lie in a folder or bucket: which are whole, which is the newest, which may go.

    <root>/00000120-5f3a91c2/shard-00000-of-00002.safetensors    one per worker, see engine_state.py
                             commit.json                         every file with its SHA-256, and the Progress

A checkpoint exists when its ``commit.json`` does, which is written last and in one piece; a folder without one was
left by a process that was killed. Folders carry the name of the start of the job that wrote them, so what one start
left half-written is never completed, or counted, by another. Shards are compared with their hashes before they are
read.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from pipelines import storage
from pipelines.errors import UserError
from pipelines.train.engine_state import shard_name

COMMIT = "commit.json"
FORMAT_VERSION = 1
_COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class Progress:
    """Where training was, beside the tensors.

    Attributes:
        cursor: global batches done.
        plan_digest, config_digest, model: what the run was planned from; another one cannot go on from here.
        world_size: workers that wrote it.
        run_id: MLflow's.
        scores: evaluation by cursor, lower is better.
        heldout: digest of the samples that they are of.
        losses: the losses that the next one is judged by.
        sound: the newest cursor whose weights gave a loss that was in order; None: the one before this.
        num_refused: batches that were refused so far.
        records: metrics of the steps since the checkpoint before, which MLflow gets when this one counts.
        events: what was out of the ordinary in these steps.
        held_back: metrics of the last step, whose evaluation is still to come: the run had to stop in a hurry.
    """

    cursor: int
    plan_digest: str
    config_digest: str
    model: str
    world_size: int
    run_id: str | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    heldout: str | None = None
    losses: Sequence[float] = ()
    sound: int | None = None
    num_refused: int = 0
    records: Sequence[tuple[int, Mapping[str, float]]] = ()
    events: Sequence[str] = ()
    held_back: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Shard:
    """A file of a checkpoint, as its commit vouches for it."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint."""

    uri: str
    shards: tuple[Shard, ...]
    progress: Progress

    @property
    def cursor(self) -> int:
        return self.progress.cursor

    def damage(self, rank: int = 0, world_size: int = 1) -> str | None:
        """What is wrong with its files, each of which is read by one of the ranks; None if nothing is."""
        for shard in self.shards[rank::world_size]:
            uri = storage.join(self.uri, shard.name)
            try:
                if storage.stat(uri).size_bytes != shard.size_bytes or storage.sha256(uri) != shard.sha256:
                    return f"{storage.shown(uri)} is not what was written"
            except FileNotFoundError:
                return f"{storage.shown(uri)} is gone"
        return None

    @contextlib.contextmanager
    def local_folder(self) -> Iterator[Path]:
        """Its shards as files of this machine; downloaded ones are deleted afterwards."""
        if storage.is_local(self.uri):
            yield storage.local_path(self.uri)
            return
        with tempfile.TemporaryDirectory(prefix="longvu-checkpoint-") as folder:
            for shard in self.shards:
                stored = storage.open_input(storage.join(self.uri, shard.name))
                with stored, (Path(folder) / shard.name).open("wb") as copy:
                    shutil.copyfileobj(stored, copy, _COPY_BYTES)
            yield Path(folder)


class NotFinished(UserError):
    """A place without a checkpoint that counts."""


def checkpoint_uri(root: str, cursor: int, start: str) -> str:
    """The folder of a checkpoint.

    Args:
        start: name of the start of the job that writes it.
    """
    return storage.join(root, f"{cursor:08d}-{start}")


def write_shard(uri: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], rank: int, size: int) -> Shard:
    """Write one rank's snapshot into a checkpoint's folder."""
    name = shard_name(rank, size)
    with storage.HashingOutput(storage.join(uri, name)) as output:
        output.write(save(dict(tensors), dict(metadata)))
    return Shard(name, output.sha256, output.size_bytes)


def write_commit(uri: str, shards: Sequence[Shard], progress: Progress) -> Checkpoint:
    """Make a checkpoint count.

    Raises:
        StorageError: shards have gone since they were written.
    """
    checkpoint = Checkpoint(uri, tuple(shards), progress)
    for shard in shards:
        place = storage.join(uri, shard.name)
        try:
            whole = storage.stat(place).size_bytes == shard.size_bytes
        except FileNotFoundError:
            whole = False
        if not whole:
            raise storage.StorageError(f"{storage.shown(place)} was written and has gone since")
    record = {"format_version": FORMAT_VERSION, "shards": [asdict(shard) for shard in shards], **asdict(progress)}
    storage.write_bytes(storage.join(uri, COMMIT), json.dumps(record, indent=1).encode() + b"\n")
    return checkpoint


def finished(root: str) -> list[Checkpoint]:
    """All finished checkpoints, the newest first."""
    found = []
    for uri, names in _folders(root).items():
        if COMMIT in names:
            with contextlib.suppress(NotFinished):  # another process has removed it since
                found.append(read_commit(uri))
    return sorted(found, key=lambda checkpoint: (checkpoint.cursor, checkpoint.uri), reverse=True)


def read_commit(uri: str) -> Checkpoint:
    """A finished checkpoint by its folder.

    Raises:
        NotFinished: there is none.
        UserError: it is damaged, or of another format.
    """
    try:
        record = json.loads(storage.read_bytes(storage.join(uri, COMMIT)))
    except ValueError:
        raise UserError(f"{storage.shown(uri)}: {COMMIT} is damaged; bring it back, or delete the folder") from None
    except (FileNotFoundError, NotADirectoryError):
        raise NotFinished(f"{storage.shown(uri)}: no finished checkpoint ({COMMIT} is missing)") from None
    if record.pop("format_version") != FORMAT_VERSION:
        raise UserError(f"{storage.shown(uri)}: a checkpoint of another version of this program")
    shards = tuple(Shard(**shard) for shard in record.pop("shards"))
    record["scores"] = {int(cursor): score for cursor, score in record["scores"].items()}
    record["records"] = [(step, values) for step, values in record["records"]]
    return Checkpoint(uri, shards, Progress(**record))


def remove_superseded(root: str, keep_last: int, keep_best: bool) -> None:
    """Delete finished checkpoints but the last few and the best, the commit of each first."""
    checkpoints = finished(root)
    kept = checkpoints[:keep_last]
    newest = checkpoints[0].progress.scores if checkpoints else {}
    scores = {cursor: score for cursor, score in newest.items() if math.isfinite(score)}
    scored = [checkpoint for checkpoint in checkpoints if checkpoint.cursor in scores]
    if keep_best and scored:
        kept.append(min(scored, key=lambda checkpoint: (scores[checkpoint.cursor], checkpoint.cursor)))
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            remove(checkpoint)


def remove(checkpoint: Checkpoint) -> None:
    """Delete a finished checkpoint, its commit first."""
    _remove(checkpoint.uri, [COMMIT, *(shard.name for shard in checkpoint.shards)])


def remove_unfinished(root: str) -> None:
    """Delete what killed processes left; for when no other process writes here."""
    if storage.is_local(root):  # empty folders and unfinished commits, too
        for folder in storage.local_path(root).glob("*"):
            if not (folder / COMMIT).exists():
                shutil.rmtree(folder, ignore_errors=True)
        return
    for uri, names in _folders(root).items():
        if COMMIT not in names:
            _remove(uri, names)


def _folders(root: str) -> dict[str, list[str]]:
    """Names of files by checkpoint folder."""
    folders: dict[str, list[str]] = {}
    for item in storage.listing(root, recursive=True):
        uri, _, name = item.uri.rpartition("/")
        folders.setdefault(uri, []).append(name)
    return folders


def _remove(uri: str, names: Sequence[str]) -> None:
    for name in names:
        storage.remove(storage.join(uri, name))
    if storage.is_local(uri):
        with contextlib.suppress(OSError):
            storage.local_path(uri).rmdir()
