"""Ray Data: units in, commits out. decode -> users' stages -> encode -> commit, each a pool of thin actors.

Ray Data schedules, holds back what is too fast, scales the pools and repeats what a lost process had in hand. A row is
a whole unit from end to end, so repeating is safe: a unit's commit has one name. Ray's own row checkpointing is not
used.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import JobStopped, UserError
from pipelines.extract.carrier import pack, unpack
from pipelines.extract.config import ExtractConfig
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import VIDEO, Source
from pipelines.extract.plan import Extent, Unit
from pipelines.extract.stages import FrameStage, stages_of
from pipelines.retry import retrying
from pipelines.storage import StorageError
from pipelines.store.features import FeatureSpec
from pipelines.store.writer import commit_unit

if TYPE_CHECKING:
    import ray

    from pipelines.extract.decode import DecodeSettings
    from pipelines.extract.encode import EncodeSettings

_REFUSED = "refused"

# More blocks would balance no better, and each costs the driver memory.
_MAX_BLOCKS = 10_000
_MEASURES_IN_FLIGHT = 256


@dataclass(frozen=True)
class UnitReport:
    """What became of a unit: counts as in its commit, busy seconds by stage, and which actor did each stage.

    ``notes`` counts what the summary should mention, by its wording. ``began_at_s`` is when its decoding began, epoch
    seconds.
    """

    unit_id: str
    counts: dict[str, int]
    notes: dict[str, int]
    began_at_s: float
    seconds: dict[str, float]
    workers: dict[str, str]


@dataclass(frozen=True)
class Pools:
    """Actors at most of each stage."""

    decode: int
    encode: int
    commit: int
    encode_gpus: float


class Stage(ABC):
    """One unit per call. Notes in the unit's header how long it took and who did it.

    A user's mistake that only shows here (a decoder that is not installed, numbers that do not fit the chosen format)
    travels on as a refusal, because Ray would turn the exception into pages of traceback. So does storage that cannot
    be used any more (disk full, bucket gone), which stops the job.
    """

    name: str

    @abstractmethod
    def process(self, row: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The unit's new header and arrays."""

    def __call__(self, row: pa.Table) -> pa.Table:
        first = "unit" in row.column_names
        before: dict[str, Any] = {"began_at_s": time.time()} if first else unpack(row)[0]
        if _REFUSED in before:
            return row
        started_s = time.perf_counter()
        try:
            header, arrays = self.process(row)
        except (UserError, OSError) as error:
            return pack({_REFUSED: str(error), "stops": isinstance(error, OSError)})
        busy_s = time.perf_counter() - started_s
        notes = {
            "began_at_s": before["began_at_s"],
            "seconds": before.get("seconds", {}) | {self.name: busy_s},
            "workers": before.get("workers", {}) | {self.name: f"{socket.gethostname()}:{os.getpid()}"},
        }
        return pack(header | notes, arrays)


class DecodeActor(Stage):
    """Unit -> frames."""

    name = "decode"

    def __init__(self, settings: DecodeSettings):
        self._settings = settings
        self._fetcher = Fetcher(settings.decode.scratch, settings.decode.read_attempts)

    def process(self, row: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        from pipelines.extract.decode import decode_unit

        return decode_unit(Unit.from_json(row["unit"][0].as_py()), self._settings, self._fetcher)


class FrameStageActor(Stage):
    """Frames -> columns of a user's stage."""

    def __init__(self, stage: FrameStage, later_edges_px: tuple[int, ...], run_id: str):
        from pipelines.extract.stage_columns import Calls

        self.name = stage.name
        self._stage, self._later_edges_px = stage, later_edges_px
        self._calls = Calls(f"{run_id}-{stage.name}")
        self._function: Callable[..., Any] | None = None

    def process(self, row: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        from pipelines.extract.stage_columns import run_stage

        if self._function is None:  # built here, where a failure is told in one line
            self._function = self._stage.build()
        return run_stage(*unpack(row), self._stage, self._function, self._later_edges_px, self._calls)


class EncodeActor(Stage):
    """Frames -> features."""

    name = "encode"

    def __init__(self, bundle: ray.ObjectRef, settings: EncodeSettings, threads: int | None):
        import ray
        import torch

        from pipelines.extract.encode import Encoder

        if threads is not None:
            torch.set_num_threads(threads)
        self._encoder = Encoder.load(ray.get(bundle), settings)

    def process(self, row: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        from pipelines.extract.encode import encode_unit

        return encode_unit(*unpack(row), self._encoder)


class CommitActor(Stage):
    """Features -> files and a commit."""

    name = "commit"

    def __init__(
        self, store: str, specs: tuple[FeatureSpec, ...], stages: tuple[FrameStage, ...], run_id: str, attempts: int
    ):
        self._store, self._specs, self._stages = store, specs, stages
        self._run_id, self._attempts = run_id, attempts

    def process(self, row: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        from pipelines.extract.commit import unit_tables

        header, arrays = unpack(row)
        frames, videos = unit_tables(header, arrays, self._specs, self._stages)
        write = functools.partial(
            commit_unit, self._store, header["unit_id"], frames, videos, run_id=self._run_id, seconds=header["seconds"]
        )
        commit = retrying(write, self._attempts)
        return {"unit_id": commit.unit_id, "counts": commit.counts, "notes": header.get("notes", {})}, {}


def read_report(row: pa.Table) -> UnitReport:
    """What came out of the last stage.

    Raises:
        JobStopped: storage cannot be used any more.
        UserError: a stage refused the unit.
    """
    header, _ = unpack(row)
    if _REFUSED not in header:
        return UnitReport(**header)
    if header["stops"]:
        raise JobStopped(f"{header[_REFUSED]}; what is committed stays, and the same command continues from there")
    raise UserError(header[_REFUSED])


def smallest_cpus(config: ExtractConfig) -> float:
    """CPUs that one actor of each stage takes."""
    stages = sum(stage.cpus for stage in config.stages)
    return config.decode.cpus + stages + config.encode.cpus + config.commit.cpus


def check_gpus(config: ExtractConfig, resources: Mapping[str, float]) -> None:
    """Refuse pools that could never start; only for one machine, as a cluster may add GPUs.

    Raises:
        UserError: there are fewer GPUs than one actor of each stage takes.
    """
    gpus = [stage.gpus for stage in config.stages]
    needed, there = sum(gpus) + pool_sizes(config, resources).encode_gpus, resources.get("GPU", 0)
    if needed > there:
        raise UserError(
            f"encoding and stages take {needed:g} GPUs at least, this machine has {there:g}; share them by "
            "encode.gpus and stages.0.gpus below 1"
        )


def pool_sizes(config: ExtractConfig, resources: Mapping[str, float]) -> Pools:
    """Largest pools for a cluster's resources."""
    cpus, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
    encode_gpus = (1.0 if gpus >= 1 else 0.0) if config.encode.gpus is None else config.encode.gpus
    encoders = int(gpus / encode_gpus) if encode_gpus else 1
    return Pools(
        decode=config.decode.max_actors or max(1, int(cpus)),
        encode=config.encode.max_actors or max(1, encoders),
        commit=config.commit.max_actors or max(1, int(cpus) // 4),
        encode_gpus=encode_gpus,
    )


def measure_sources(
    sources: Sequence[Source], config: ExtractConfig, measured: Callable[[], None]
) -> dict[str, Extent | None]:
    """Extent of every video, measured in worker processes; None where a process died or hung.

    Args:
        measured: called for each source.

    Raises:
        StorageError: the storage does not answer.
    """
    import ray
    from ray.exceptions import RayError

    from pipelines.extract.measure import measure

    task: Any = ray.remote(num_cpus=1, max_retries=0)(measure)
    waiting = [source for source in reversed(sources) if source.kind == VIDEO]
    for _ in range(len(sources) - len(waiting)):
        measured()
    running: dict[Any, str] = {}
    extents: dict[str, Extent | None] = {}
    while waiting or running:
        while waiting and len(running) < _MEASURES_IN_FLIGHT:
            uri = waiting.pop().uri
            running[task.remote(uri, config.sampling, config.unit_frames)] = uri
        ready, _ = ray.wait(list(running), timeout=config.decode.deadline_s)
        for reference in ready or list(running):
            if not ready:
                ray.cancel(reference, force=True)
            uri = running.pop(reference)
            try:
                extents[uri] = ray.get(reference) if ready else None
            except StorageError as error:
                raise getattr(error, "cause", error) from None
            except RayError:
                extents[uri] = None
            measured()
    return extents


def committed(dataset: ray.data.Dataset) -> Iterator[UnitReport]:
    """Run what :func:`through_stages` describes; yields each unit as it is committed.

    Raises:
        RayLost: nodes or actors died more often than Ray repeats their work.
    """
    import ray.exceptions

    try:
        for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield read_report(batch)
    except ray.exceptions.RayError as error:
        lost = _lost(error)
        if lost is None:
            raise
        raise lost from error


def through_stages(
    units: Sequence[Unit],
    config: ExtractConfig,
    *,
    store: str,
    run_id: str,
    bundle: ray.ObjectRef,
    decode: DecodeSettings,
    encode: EncodeSettings,
) -> ray.data.Dataset:
    """Units -> decode -> users' stages -> encode -> commit, lazily; a row of reports per unit.

    Args:
        store: its URI.
        bundle: a TowerBundle.
    """
    import ray
    from ray.data import ActorPoolStrategy

    _quiet()
    pools = pool_sizes(config, ray.cluster_resources())
    stages = stages_of(config.stages)
    rows = [{"unit": unit.to_json()} for unit in units]
    # batch_size=1 and Arrow batches throughout: one call is one unit, without a copy.
    common: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map_batches(
        DecodeActor,
        fn_constructor_kwargs={"settings": decode},
        compute=ActorPoolStrategy(min_size=1, max_size=pools.decode),
        num_cpus=config.decode.cpus,
        **common,
    )
    for number, (stage, settings) in enumerate(zip(stages, config.stages, strict=True), 1):
        later_edges_px = tuple(later.declared.edge_px for later in stages[number:])
        dataset = dataset.map_batches(
            FrameStageActor,
            fn_constructor_kwargs={"stage": stage, "later_edges_px": later_edges_px, "run_id": run_id},
            compute=ActorPoolStrategy(min_size=1, max_size=settings.max_actors),
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            **common,
        )
    return dataset.map_batches(
        EncodeActor,
        fn_constructor_kwargs={"bundle": bundle, "settings": encode, "threads": config.encode.threads},
        compute=ActorPoolStrategy(min_size=1, max_size=pools.encode),
        num_cpus=config.encode.cpus,
        num_gpus=pools.encode_gpus,
        **common,
    ).map_batches(
        CommitActor,
        fn_constructor_kwargs={
            "store": store,
            "specs": encode.specs,
            "stages": stages,
            "run_id": run_id,
            "attempts": config.commit.write_attempts,
        },
        compute=ActorPoolStrategy(min_size=1, max_size=pools.commit),
        num_cpus=config.commit.cpus,
        **common,
    )


class RayLost(JobStopped):
    """The cluster, not a stage, gave up: nodes or actors died more often than Ray repeats their work."""

    def __init__(self, cause: str):
        super().__init__(f"{cause}; what is committed stays, and the same command continues from there")
        self.cause = cause


def _lost(error: BaseException) -> RayLost | None:
    """What Ray says of a loss; None for a defect of ours."""
    from ray import exceptions

    losses = (
        exceptions.ActorDiedError,
        exceptions.ActorUnschedulableError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.ObjectStoreFullError,
        exceptions.OutOfDiskError,
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
    )
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, losses):
        cause = cause.__cause__
    return RayLost(f"Ray: {type(cause).__name__}: {' '.join(str(cause).split())[:300]}") if cause else None


def _quiet() -> None:
    """Ray Data's own progress display and logs off: the job reports in its own words."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
