"""Checkpoints written beside training: a copy in memory, a thread that writes it, a commit when every rank has.

Training waits for the copy alone. The shards are written by a thread of each rank; that all of them are done is seen
in the values that ranks exchange at every step anyway, and then the first rank's thread writes the commit. Threads take
no part in collectives.

How much work a kill can cost is a promise, and kept even where storage is slow: :meth:`CheckpointWriter.make_room`
waits as soon as more steps would be at stake.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from pipelines.errors import JobStopped, UserError
from pipelines.retry import retrying
from pipelines.train import checkpoint
from pipelines.train.checkpoint import Checkpoint, Progress, Shard
from pipelines.train.engine import Engine
from pipelines.train.world import World


class CheckpointWriter:
    """Writes one checkpoint at a time; every method is called by all ranks in the same order.

    Args:
        root: folder or prefix of checkpoints.
        start: name of this start of the job, the same on all ranks.
        newest: the checkpoint that training goes on from, if any.
        settled: called by the first rank's thread with every new checkpoint once it counts; before the next does.
        finish: called by the first rank's thread before a commit; what it returns is committed.

    What goes wrong in a thread is told to all ranks, and all raise :class:`JobStopped`.
    """

    def __init__(
        self,
        root: str,
        start: str,
        world: World,
        newest: Checkpoint | None,
        finish: Callable[[Progress], Progress],
        settled: Callable[[Checkpoint], None],
    ) -> None:
        self._root, self._start, self._world = root, start, world
        self._finish, self._settled = finish, settled
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._progress: Progress | None = None
        self._shard: Future[Shard] | None = None
        self._commit: Future[Checkpoint] | None = None
        self._settling: Future[None] | None = None
        self.committed = self.begun = newest.cursor if newest else -1
        self.uri = newest.uri if newest else ""
        self.stalled_s = 0.0

    def begin(self, engine: Engine, progress: Progress) -> None:
        """Copy the engine's state and let it be written; one that is still being written is waited for first."""
        self.wait()
        began_s = time.perf_counter()
        tensors = engine.snapshot()
        metadata = {"steps": str(engine.steps), "shapes": json.dumps(engine.shapes(), sort_keys=True)}
        self.uri = uri = checkpoint.checkpoint_uri(self._root, progress.cursor, self._start)
        rank, size = self._world.rank, self._world.size

        def write() -> Shard:
            return retrying(lambda: checkpoint.write_shard(uri, tensors, metadata, rank, size))

        self._shard = self._thread.submit(write)
        self._progress, self.begun = progress, progress.cursor
        self.stalled_s += time.perf_counter() - began_s

    @property
    def state(self) -> tuple[float, float]:
        """What the other ranks must know: whether this rank's shard is written, and the newest cursor that counts;
        not a number if the first rank could not commit it."""
        committed = float(self.committed)
        if self._commit is not None and self._commit.done():
            committed = math.nan if self._commit.exception() else self.begun
        return float(self._shard is not None and self._shard.done()), committed

    def advance(self, written: bool, committed: float) -> None:
        """Take notice of what the ranks said.

        Args:
            written: whether all of them have written their shards.
            committed: the first rank's newest cursor that counts, or not a number.
        """
        if math.isnan(committed) or committed > self.committed:
            self.wait()
        if written and self._shard is not None:
            self._hand_in()

    def make_room(self, cursor: int, most_lost: int) -> None:
        """Wait for the checkpoint in progress if another step would put more than ``most_lost`` steps at stake."""
        if cursor + 1 - self.committed > most_lost and self.begun > self.committed:
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint in progress counts."""
        began_s = time.perf_counter()
        if self._shard is not None:
            self._hand_in()
        if self.begun > self.committed:
            problem = _problem(self._commit)
            self._commit = None
            _check(self._world.from_first(problem))  # the others wait here for the first rank's thread
            self.committed = self.begun
        self.stalled_s += time.perf_counter() - began_s

    def go_back(self, cursor: int, kept: int) -> Checkpoint:
        """The newest checkpoint up to a cursor, or else the oldest of the last few; it becomes the newest.

        Args:
            kept: how many the last few are.
        """
        self.wait()
        _check(self._world.from_first(self._unsettled()))
        found = self._world.from_first(checkpoint.finished(self._root)[:kept] if self._world.first else None)
        chosen: Checkpoint = next((one for one in found if one.cursor <= cursor), found[-1])
        if self._world.first:
            for newer in found[: found.index(chosen)]:
                retrying(partial(checkpoint.remove, newer))
        self.committed, self.begun, self.uri = chosen.cursor, chosen.cursor, chosen.uri
        return chosen

    def close(self) -> None:
        """Wait for the thread.

        Raises:
            JobStopped: it could not do what follows the last commit.
        """
        self._thread.shutdown()
        _check(self._unsettled())

    def _hand_in(self) -> None:
        """Tell the first rank what was written; its thread commits it.

        Raises:
            JobStopped: a rank could not write its shard, or the first one not settle the checkpoint before.
        """
        assert self._shard is not None and self._progress is not None
        problem = _problem(self._shard) or self._unsettled()
        outcomes = self._world.gather(problem or self._shard.result())
        for outcome in outcomes:
            _check(outcome if isinstance(outcome, str) else None)
        progress, uri = self._progress, self.uri
        self._shard = None

        def commit() -> Checkpoint:
            return retrying(lambda: checkpoint.write_commit(uri, outcomes, self._finish(progress)))

        if self._world.first:
            committing = self._commit = self._thread.submit(commit)

            def settle() -> None:
                if committing.exception() is None:
                    self._settled(committing.result())

            self._settling = self._thread.submit(settle)

    def _unsettled(self) -> str | None:
        """What went wrong after the commit before."""
        settling, self._settling = self._settling, None
        return _problem(settling)


def _problem(work: Future[Any] | None) -> str | None:
    """What went wrong in a thread, once it is done; in words, for other ranks."""
    error = work.exception() if work is not None else None
    if error is None:
        return None
    return str(error) if isinstance(error, UserError | OSError) else repr(error)


def _check(problem: str | None) -> None:
    if problem is not None:
        raise JobStopped(f"a checkpoint could not be written: {problem}; the same command continues")
