"""A rank's share of every global batch, prepared ahead of the steps that learn from it.

Threads load features and encode text for the steps to come while one is computed; what is given depends on the plan
and the cursor alone. A medium that cannot be read when its turn comes leaves its sample out of the step, by name.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from pipelines import storage
from pipelines.errors import UserError
from pipelines.store import FeatureStore, StoreError
from pipelines.train.appraisal import encoded
from pipelines.train.families import Family
from pipelines.train.manifest import Manifest
from pipelines.train.online import OnlineEncoder
from pipelines.train.plan import TrainingPlan, deal
from pipelines.train.prepared import PreparedSample, Step, Unreadable, with_features
from pipelines.train.samples import MediaRef, Unusable

__all__ = ["PreparedSample", "Reader", "ReaderStats", "Step", "Unreadable"]


@dataclass
class ReaderStats:
    """What reading has cost so far; the caller may reset it.

    Attributes:
        steps, samples: given to the caller.
        unreadable: samples left out.
        online: media that were decoded and encoded.
        feature_bytes: of the features given, as they lie in memory.
        stall_s: seconds for which the caller waited.
        wall_s: seconds since the caller first asked, its own work included.
    """

    steps: int = 0
    samples: int = 0
    unreadable: int = 0
    online: int = 0
    feature_bytes: int = 0
    stall_s: float = 0.0
    wall_s: float = 0.0

    @property
    def stall_share(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self.stall_s / self.wall_s if self.wall_s else 0.0


class Reader:
    """Prepares samples.

    Args:
        manifest: what there is.
        family: of the model, as the manifest was made for.
        store: features; the caller has compared its towers' digests with the model's.
        online: for media that the store does not have; may be None if it has all.
        threads: samples prepared at a time.
        steps_ahead: steps prepared before they are asked for; memory holds the features of so many and one more.
        pin_memory: put features where a GPU can fetch them without waiting.

    Raises:
        UserError: the manifest has media that are in no store, and there is no encoder for them.
    """

    def __init__(
        self,
        manifest: Manifest,
        family: Family[Any],
        store: FeatureStore | None = None,
        online: OnlineEncoder | None = None,
        *,
        threads: int = 4,
        steps_ahead: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if manifest.num_online and online is None:
            raise UserError(
                f"{manifest.num_online} of {len(manifest)} samples have media that are not in the feature store; "
                f"extract them, or allow online encoding"
            )
        for name, value in (("threads", threads), ("steps_ahead", steps_ahead)):
            if value < 1:
                raise UserError(f"{name}={value}: must be at least 1")
        self.manifest, self.stats = manifest, ReaderStats()
        self._family, self._store, self._online = family, store, online
        self._threads, self._steps_ahead, self._pin_memory = threads, steps_ahead, pin_memory
        # tokenizers are not made for several threads at a time
        self._tokenizing, self._counting = threading.Lock(), threading.Lock()

    def steps(self, plan: TrainingPlan, rank: int, world_size: int, cursor: int = 0) -> Generator[Step, None, None]:
        """The rank's share of each global batch from ``cursor`` to the end of the plan."""
        started_s = time.perf_counter()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="reader") as pool:
            ahead: deque[_Pending] = deque()
            try:
                following = iter(range(cursor, plan.num_steps))
                while True:
                    while len(ahead) <= self._steps_ahead and (upcoming := next(following, None)) is not None:
                        ahead.append(self._submit(pool, plan, upcoming, rank, world_size))
                    if not ahead:
                        return
                    step = self._collect(ahead.popleft())
                    self.stats.wall_s += time.perf_counter() - started_s
                    started_s = time.perf_counter()
                    yield step
            finally:
                for pending in ahead:
                    pending.cancel()

    def prepare(self, index: int) -> PreparedSample | Unreadable:
        """One sample, read now.

        Raises:
            StorageError: the storage service does not answer; this is no fault of the sample's.
        """
        sample = self.manifest.sample(index)
        try:
            with self._tokenizing:
                text = encoded(sample, self._family)
            self._check_text(index, text.num_text)
            frames = [self._frames(medium, text.num_text, len(sample.media)) for medium in sample.media]
        except Unusable as error:
            return Unreadable(index, sample.sample_id, error.cause, str(error))
        media, num_sequences = None, 1
        if frames:
            media = self._family.media(text, frames, [medium.kind == "video" for medium in sample.media])
            num_sequences = self._family.num_sequences(frames)
            if self._pin_memory:
                media = with_features(media, torch.Tensor.pin_memory)
        return PreparedSample(
            index=index,
            sample_id=sample.sample_id,
            modality=sample.modality,
            input_ids=torch.tensor(text.input_ids),
            labels=torch.tensor(text.labels),
            num_targets=text.num_targets * num_sequences,
            media=media,
            num_sequences=num_sequences,
        )

    def _check_text(self, index: int, num_text: int) -> None:
        planned = self.manifest.table["num_text_tokens"][index].as_py()
        if planned != num_text:
            raise UserError(
                f"sample {self.manifest.table['sample_id'][index].as_py()} was planned with {planned} text tokens and "
                f"has {num_text} now: the tokenizer is not the one of the manifest; plan again"
            )

    def _frames(self, medium: MediaRef, num_text: int, num_media: int) -> Any:
        if medium.video_id is None:
            assert self._online is not None, "checked when the reader was made"
            with self._counting:
                self.stats.online += 1
            return self._online.encode(medium, num_text, num_media)
        if self._store is None:
            raise UserError("the manifest was made with a feature store: give it to the reader, too")
        with _as_unusable(self._store, medium):
            return self._family.recall(self._store, medium)

    def _submit(
        self, pool: ThreadPoolExecutor, plan: TrainingPlan, cursor: int, rank: int, world_size: int
    ) -> _Pending:
        batch = plan[cursor]
        share = deal(batch, world_size)[rank]
        bins = [[pool.submit(self.prepare, index) for index in members] for members in share]
        return _Pending(cursor, plan.locate(cursor)[0], batch.target_tokens, bins)

    def _collect(self, pending: _Pending) -> Step:
        started_s = time.perf_counter()
        results = [[future.result() for future in members] for members in pending.bins]
        stall_s = time.perf_counter() - started_s
        bins = [[one for one in members if isinstance(one, PreparedSample)] for members in results]
        unreadable = [one for members in results for one in members if isinstance(one, Unreadable)]
        stats = self.stats
        stats.steps += 1
        stats.samples += sum(map(len, bins))
        stats.unreadable += len(unreadable)
        stats.feature_bytes += sum(_feature_bytes(sample) for members in bins for sample in members)
        stats.stall_s += stall_s
        return Step(pending.cursor, pending.epoch, bins, pending.planned_target_tokens, unreadable, stall_s)


@dataclass(frozen=True)
class _Pending:
    """A step on its way."""

    cursor: int
    epoch: int
    planned_target_tokens: int
    bins: list[list[Future[PreparedSample | Unreadable]]]

    def cancel(self) -> None:
        for members in self.bins:
            for future in members:
                future.cancel()


def _feature_bytes(sample: PreparedSample) -> int:
    sizes: list[int] = []

    def note(features: torch.Tensor) -> torch.Tensor:
        sizes.append(features.nbytes)
        return features

    if sample.media is not None:
        with_features(sample.media, note)
    return sum(sizes)


@contextlib.contextmanager
def _as_unusable(store: FeatureStore, medium: MediaRef) -> Iterator[None]:
    """Damaged or vanished features as the sample's failure; a storage service that does not answer is not."""
    try:
        yield
    except (Unusable, storage.StorageError):
        raise
    except (StoreError, FileNotFoundError, pa.ArrowException, ValueError) as error:
        raise Unusable("bad features", f"{medium.path}: {error}") from error
    except OSError as error:
        if not storage.is_local(store.uri):
            raise storage.StorageError(f"{storage.shown(store.uri)}: {error}") from error
        raise Unusable("bad features", f"{medium.path}: {error}") from error
