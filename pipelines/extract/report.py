"""What a run did, for people: sources by outcome, frames, the speed of each stage beside what it could do."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.extract.config import ExtractConfig
from pipelines.storage import StoredObject
from pipelines.store.reader import FeatureStore
from pipelines.store.schema import FAILED, OK, TRUNCATED
from pipelines.tables import print_table

if TYPE_CHECKING:
    from pipelines.extract.dataflow import UnitReport

TOO_MANY_FAILED_EXIT = 3
_SECOND_ATTEMPT = "sources that needed another decoder or smaller blocks"


@dataclass(frozen=True)
class StageSpeed:
    """A stage of one run.

    Args:
        frames: sampled frames that passed it.
        busy_s: seconds of work, over all its actors.
        actors: that did any of it.
        achieved: frames per second of the whole run, from the first unit's start to the last commit.
    """

    name: str
    frames: int
    busy_s: float
    actors: int
    achieved: float

    @property
    def ceiling(self) -> float:
        """Frames per second if its actors had never waited."""
        return self.frames * self.actors / self.busy_s if self.busy_s > 0 else 0.0

    @property
    def gap(self) -> float:
        """How many times faster the stage was than the run."""
        return self.ceiling / self.achieved if self.achieved > 0 else 0.0


@dataclass(frozen=True)
class Cause:
    """Sources that failed in one way, and what one of them says."""

    error: str
    sources: int
    example: str


@dataclass(frozen=True)
class ExtractReport:
    """The state of a store's sources after a run.

    Args:
        store: URI of the store.
        sources: number of sources that were asked for.
        statuses: of these, how many are ok, truncated, failed; the rest is not finished.
        causes: why sources failed, the most frequent cause first.
        sampled, kept, stored: frames of all these sources; ``kept`` is None where none are selected.
        seconds: wall time of this run.
        new_units: units that this run committed; 0: everything was already done.
        stages: speeds of this run.
        notes: what else happened in this run, how often, by its wording.
        tracked: where MLflow has the run; None when there was nothing to record.
        next_command: what to do with the store.
        max_failed_fraction: limit on the fraction of failed sources.
    """

    store: str
    sources: int
    statuses: dict[str, int]
    causes: tuple[Cause, ...]
    sampled: int
    kept: int | None
    stored: int
    seconds: float
    next_command: str
    max_failed_fraction: float
    new_units: int = 0
    stages: tuple[StageSpeed, ...] = field(default=())
    notes: dict[str, int] = field(default_factory=dict)
    tracked: str | None = None

    @property
    def exit_code(self) -> int:
        """0, or 3 when too many sources failed."""
        too_many = self.statuses[FAILED] > self.max_failed_fraction * self.sources
        return TOO_MANY_FAILED_EXIT if too_many else 0

    def print(self, file: IO[str] | None = None) -> None:
        """Write the summary: tables on a terminal, plain lines elsewhere."""
        out = file or sys.stdout
        for line in self._head():
            print(line, file=out)
        if self.stages:
            print_table(_STAGE_COLUMNS, [_stage_row(stage) for stage in self.stages], out)
        if self.causes:
            rows = [(cause.error, str(cause.sources), cause.example) for cause in self.causes]
            print_table(("cause", "sources", "for example"), rows, out)
        for line in self._tail():
            print(line, file=out)

    def _head(self) -> Iterable[str]:
        if not self.new_units:
            yield f"nothing to do: all {self.sources} sources were already extracted (looked for {self.seconds:.1f} s)"
        else:
            yield f"extracted {self.sources} sources in {self.seconds:.1f} s"
        counts = "  ".join(f"{status} {count}" for status, count in self.statuses.items())
        unfinished = self.sources - sum(self.statuses.values())
        yield f"sources  {counts}" + (f"  unfinished {unfinished}" if unfinished else "")
        kept = ""
        if self.kept is not None:
            kept = f"  kept {self.kept} ({self.kept / self.sampled if self.sampled else 0.0:.1%})"
        yield f"frames   sampled {self.sampled}{kept}  with features {self.stored}"

    def _tail(self) -> Iterable[str]:
        for wording, count in self.notes.items():
            yield f"note     {wording}: {count}"
        if self.exit_code:
            yield (
                f"too many: {self.statuses[FAILED]} of {self.sources} sources failed, allowed is a fraction of "
                f"max_failed_fraction={self.max_failed_fraction:g}; everything else is done and stored"
            )
        if self.causes:
            yield f"failed   longvu store quarantine {storage.shown(self.store)}"
        yield f"store    {storage.shown(self.store)}"
        if self.tracked:
            yield f"mlflow   {self.tracked}"
        yield f"next     {self.next_command}"


def stage_speeds(units: Sequence[UnitReport], finished_at_s: float) -> tuple[StageSpeed, ...]:
    """Speeds of a run from its units' reports.

    Args:
        finished_at_s: epoch seconds of the last commit.
    """
    if not units:
        return ()
    frames = sum(unit.counts["sampled"] for unit in units)
    run_s = finished_at_s - min(unit.began_at_s for unit in units)
    return tuple(
        StageSpeed(
            stage,
            frames,
            busy_s=sum(unit.seconds[stage] for unit in units),
            actors=len({unit.workers[stage] for unit in units}),
            achieved=frames / run_s if run_s > 0 else 0.0,
        )
        for stage in units[0].seconds
    )


def make_report(
    config: ExtractConfig,
    store: FeatureStore,
    sources: Sequence[StoredObject],
    *,
    seconds: float,
    new_units: int = 0,
    stages: tuple[StageSpeed, ...] = (),
    notes: dict[str, int] | None = None,
    tracked: str | None = None,
) -> ExtractReport:
    """Sum up what the store holds of these sources."""
    wanted = {(source.uri, source.version) for source in sources}
    videos = store.videos(["video_id", "attempts", "num_sampled", "num_kept", "num_stored"])
    identities = zip(videos["source"].to_pylist(), videos["version"].to_pylist(), strict=True)
    videos = videos.filter([identity in wanted for identity in identities])
    statuses = Counter(videos["status"].to_pylist())
    good = videos.filter(pc.not_equal(videos["status"], FAILED))
    again = pc.sum(pc.greater(good["attempts"], 1)).as_py()
    return ExtractReport(
        store=store.uri,
        sources=len(sources),
        statuses={status: statuses[status] for status in (OK, TRUNCATED, FAILED)},
        causes=_causes(videos.filter(pc.equal(videos["status"], FAILED))),
        sampled=pc.sum(videos["num_sampled"]).as_py() or 0,
        kept=(pc.sum(videos["num_kept"]).as_py() or 0) if store.manifest.selects else None,
        stored=pc.sum(videos["num_stored"]).as_py() or 0,
        seconds=seconds,
        next_command=_next_command(config, store, good),
        max_failed_fraction=config.max_failed_fraction,
        new_units=new_units,
        stages=stages,
        notes=({_SECOND_ATTEMPT: again} if again else {}) | (notes or {}),
        tracked=tracked,
    )


def _causes(failed: pa.Table) -> tuple[Cause, ...]:
    examples: dict[str, str] = {}
    sources, errors, messages = (failed[name].to_pylist() for name in ("source", "error", "message"))
    for source, error, message in zip(sources, errors, messages, strict=True):
        name = storage.shown(source)
        examples.setdefault(error, message if name in message else f"{name}: {message}")
    return tuple(Cause(error, count, examples[error]) for error, count in Counter(errors).most_common())


def _next_command(config: ExtractConfig, store: FeatureStore, good: pa.Table) -> str:
    source = good["source"][0].as_py() if len(good) else None
    if source is None:
        return "mend or replace the sources, then run the same command again"
    if {spec.name for spec in store.manifest.features} == {"dinov2"}:
        return f"longvu frames {storage.shown(source)} --model {config.model}"
    # A video that is not on this machine is found in the store by its content.
    video = storage.shown(source) if storage.is_local(source) else good["video_id"][0].as_py()
    question = '"What happens in this video?"'
    return f"longvu ask {video} {question} --model {config.model} --store {storage.shown(store.uri)}"


_STAGE_COLUMNS = ("stage", "frames", "busy s", "actors", "ceiling frames/s", "run frames/s", "gap")


def _stage_row(stage: StageSpeed) -> tuple[str, ...]:
    return (
        stage.name,
        str(stage.frames),
        f"{stage.busy_s:.2f}",
        str(stage.actors),
        f"{stage.ceiling:.1f}",
        f"{stage.achieved:.1f}",
        f"{stage.gap:.1f}x",
    )
