"""The job: index -> what is new -> plan -> dataflow -> report.

Everything that is finished is taken away before any byte of its sources is read, and when nothing is left neither Ray
nor torch is started.
"""

from __future__ import annotations

import datetime
import functools
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract import plan
from pipelines.extract.config import ExtractConfig
from pipelines.extract.families import Family
from pipelines.extract.plan import Unit
from pipelines.extract.report import ExtractReport, make_report, stage_speeds
from pipelines.extract.stages import stages_of
from pipelines.extract.towers import TowerBundle, existing_folder, family_of, fingerprint, load_towers, model_folder
from pipelines.extract.work import Work, find_work
from pipelines.progress import Progress
from pipelines.ray_session import ray_session
from pipelines.source_table import SCHEMA as SOURCES
from pipelines.source_table import is_recorded, record_sources
from pipelines.store.commits import committed_units
from pipelines.store.compaction import compact
from pipelines.store.manifest import StoreManifest
from pipelines.store.reader import FeatureStore
from pipelines.store.schema import OK, SELECTING, WINDOW_FRAMES
from pipelines.store.writer import code_version
from pipelines.tracking import RunIdentity, TrackedRun

if TYPE_CHECKING:
    from pipelines.extract.dataflow import UnitReport

_METRICS_EVERY_S = 10.0

# Sources whose plan is written at once: so much measuring is lost when a run is killed.
_SLICE = 4096


def extract(config: ExtractConfig, work: Work | None = None) -> ExtractReport:
    """Bring a store up to date with its sources.

    Safe to kill at any time; the same call continues where it stopped.

    Args:
        work: what :func:`find_work` found, if it was asked before.

    Raises:
        UserError: nothing to extract, an unusable model, or a store that was made with something else.
    """
    started_s = time.perf_counter()
    work = work or find_work(config)
    if work.nothing_left:
        store = FeatureStore.open(work.store)
        _check_model(config, store)
        if not is_recorded(store.uri, _sources(store)):  # the run that did the last unit was killed just then
            record(config, store)
        return make_report(config, store, work.sources, seconds=time.perf_counter() - started_s)

    try:
        Path(config.workdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"workdir={config.workdir}: cannot be made ({error.strerror}); give another folder") from None
    store, bundle = _open_store(config, work.store)
    run_id = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)
    with _tracked(config, store) as run:
        units, finished_at_s = _run(config, work, store, bundle, run_id, run)
        compact(work.store, min_units=config.commit.compact_from)
        store.refresh()
        stages = stage_speeds(units, finished_at_s)
        report = make_report(
            config,
            store,
            work.sources,
            seconds=time.perf_counter() - started_s,
            new_units=len(units),
            stages=stages,
            notes=_summed_notes(units),
            tracked=run.place,
        )
        run.metrics(_metrics(report), step=len(store.commits))
        run.describe(_description(report))
        _record_sources(config, store, run)
    return report


def record(config: ExtractConfig, store: FeatureStore) -> None:
    """Make a finished store known to MLflow."""
    with _tracked(config, store) as run:
        _record_sources(config, store, run)


def _tracked(config: ExtractConfig, store: FeatureStore) -> TrackedRun:
    """The store's run in MLflow; extracting more into the store finds it again."""
    run = TrackedRun(Path(config.workdir), RunIdentity.of_output("extract", store.uri))
    settings = config.flat()
    run.params(settings)
    run.describe(f"Features of `{settings['source']}` in the store `{storage.shown(store.uri)}`.")
    run.tags({"longvu.store": store.uri, "longvu.config_digest": config.digest()})
    run.tags({f"longvu.tower.{name}": digest for name, digest in store.manifest.towers.items()})
    return run


def _sources(store: FeatureStore) -> pa.Table:
    return store.videos(SOURCES.names).select(SOURCES.names)


def _record_sources(config: ExtractConfig, store: FeatureStore, run: TrackedRun) -> None:
    record_sources(run, store.uri, _sources(store), store.manifest.name, str(config.flat()["source"]))


def _run(
    config: ExtractConfig, work: Work, store: FeatureStore, bundle: TowerBundle, run_id: str, run: TrackedRun
) -> tuple[list[UnitReport], float]:
    """Plan what is fresh and push all pending units through the dataflow; also returns the time of the last commit."""
    import ray

    from pipelines.extract import dataflow

    reports: list[UnitReport] = []
    finished_at_s = recorded_s = time.time()
    with ray_session(dataflow.smallest_cpus(config)):
        if not os.environ.get("RAY_ADDRESS"):
            dataflow.check_gpus(config, ray.cluster_resources())
        pending = plan.by_cost([*work.pending, *_plan_fresh(config, work, run_id)])
        _say(f"{len(pending)} units to do -> {storage.shown(store.uri)}")
        begin = _dataflow(config, store, bundle, run_id)
        frames = failed = 0
        with Progress("units", len(pending)) as progress:
            for unit in _to_the_end(begin, pending, store.uri):
                reports.append(unit)
                finished_at_s = time.time()
                frames, failed = frames + unit.counts["sampled"], failed + unit.counts["failed"]
                progress.add(f"{frames} frames, {frames / progress.elapsed_s:.1f} frames/s, {failed} failed")
                if finished_at_s - recorded_s > _METRICS_EVERY_S:
                    recorded_s = finished_at_s
                    run.metrics(_so_far(reports, finished_at_s), step=len(reports))
    return reports, finished_at_s


def _dataflow(
    config: ExtractConfig, store: FeatureStore, bundle: TowerBundle, run_id: str
) -> Callable[[Sequence[Unit]], Iterator[UnitReport]]:
    """What takes units through all stages; the towers are handed to Ray once."""
    import ray

    from pipelines.extract.dataflow import committed, through_stages
    from pipelines.extract.decode import DecodeSettings
    from pipelines.extract.encode import EncodeSettings

    decode = DecodeSettings(
        config.sampling,
        {name: bundle.pixels(name) for name in bundle.weights},
        config.features.jpeg_edge_px,
        config.decode,
        tuple(stage.declared.edge_px for stage in stages_of(config.stages)),
        {name: bundle.pixels(name, "image") for name in bundle.weights},
    )
    encode = EncodeSettings(
        specs=store.manifest.features,
        keep_threshold=config.keep_threshold,
        keep_all_below=config.keep_all_below,
        precision=config.encode.precision,
        batch_frames=config.encode.batch_frames,
        compile=config.encode.compile,
    )
    dataset = functools.partial(
        through_stages,
        config=config,
        store=store.uri,
        run_id=run_id,
        bundle=ray.put(bundle),
        decode=decode,
        encode=encode,
    )
    return lambda units: committed(dataset(units))


def _plan_fresh(config: ExtractConfig, work: Work, run_id: str) -> Iterator[Unit]:
    """Measure sources that were never planned, and plan them; a plan is stored before its units are returned."""
    from pipelines.extract.dataflow import measure_sources

    for number, first in enumerate(range(0, len(work.fresh), _SLICE)):
        fresh = work.fresh[first : first + _SLICE]
        _say(f"looking at {len(fresh)} new sources" + (f", {first} seen" if first else ""))
        with Progress("sources", len(fresh)) as progress:
            extents = measure_sources(fresh, config, progress.add)
        units = plan.plan_units(fresh, extents, config.digest(), config.unit_frames)
        plan.write_plan(work.store, f"{run_id}-{number:04}", units)
        yield from units


def _to_the_end(
    begin: Callable[[Sequence[Unit]], Iterator[UnitReport]], units: Sequence[Unit], store: str
) -> Iterator[UnitReport]:
    """Begin again with the units that are left when Ray has lost nodes, as long as that gets any of them done."""
    from pipelines.extract.dataflow import RayLost

    while units:
        try:
            yield from begin(units)
            return
        except RayLost as lost:
            done = committed_units(store)
            left = [unit for unit in units if unit.unit_id not in done]
            if len(left) == len(units):
                raise
            _say(f"{lost.cause}; going on with the {len(left)} units that are left")
            units = left


def _open_store(config: ExtractConfig, uri: str) -> tuple[FeatureStore, TowerBundle]:
    folder = model_folder(config.model, Path(config.workdir))
    bundle = load_towers(folder, chosen_features(config, family_of(folder)))
    model = {"name": config.model, "fingerprint": fingerprint(folder)}
    return FeatureStore.create(uri, store_manifest(config, bundle, model)), bundle


def chosen_features(config: ExtractConfig, family: Family) -> tuple[str, ...]:
    """The features that are stored for a model of this family.

    Raises:
        UserError: one is asked for that the family lacks.
    """
    try:
        return family.chosen(*(["siglip"] if config.features.siglip else []))
    except UserError as error:
        raise UserError(f"model={config.model}: {error}; set features.siglip=false") from None


def store_manifest(config: ExtractConfig, bundle: TowerBundle, model: dict[str, str]) -> StoreManifest:
    """What a store of these towers' features is made with."""
    names = tuple(bundle.weights)
    selects = SELECTING in names
    return StoreManifest(
        name=config.name,
        config=config.flat(),
        config_digest=config.digest(),
        features=tuple(bundle.spec(name, config.features.dtype) for name in names),
        window_frames=WINDOW_FRAMES,
        keep_threshold=config.keep_threshold if selects else None,
        keep_all_below=config.keep_all_below if selects else None,
        jpeg=config.features.jpeg_edge_px > 0,
        towers={name: bundle.digest(name) for name in names},
        preprocessing={name: bundle.preprocessing(name) for name in names},
        model=model,
        created_by=code_version(),
        stages={stage.name: stage.columns for stage in stages_of(config.stages)},
    )


def _check_model(config: ExtractConfig, store: FeatureStore) -> None:
    """Even when nothing is left to do, another model than the store's is an error; unchanged files are not read."""
    folder = existing_folder(config.model, Path(config.workdir))
    if folder is None or fingerprint(folder) != store.manifest.model.get("fingerprint"):
        _open_store(config, store.uri)


def _summed_notes(units: Sequence[UnitReport]) -> dict[str, int]:
    notes: Counter[str] = Counter()
    for unit in units:
        notes.update(unit.notes)
    return dict(notes)


def _so_far(units: Sequence[UnitReport], now_s: float) -> dict[str, float]:
    metrics = {f"ceiling_frames_per_s/{stage.name}": stage.ceiling for stage in stage_speeds(units, now_s)}
    totals = {f"frames/{name}": sum(unit.counts[name] for unit in units) for name in ("sampled", "kept")}
    elapsed_s = now_s - min(unit.began_at_s for unit in units)
    return metrics | totals | {"frames_per_s": totals["frames/sampled"] / max(elapsed_s, 1e-9)}


def _metrics(report: ExtractReport) -> dict[str, float]:
    metrics: dict[str, float] = {f"sources/{status}": count for status, count in report.statuses.items()}
    metrics |= {f"failed/{cause.error}": cause.sources for cause in report.causes}
    metrics |= {"frames/sampled": report.sampled, "frames/stored": report.stored, "seconds": report.seconds}
    if report.kept is not None:
        metrics |= {"frames/kept": report.kept, "kept_ratio": report.kept / report.sampled if report.sampled else 0.0}
    for stage in report.stages:
        metrics |= {f"ceiling_frames_per_s/{stage.name}": stage.ceiling, f"gap/{stage.name}": stage.gap}
        metrics["frames_per_s"] = stage.achieved
    return metrics


def _description(report: ExtractReport) -> str:
    selected = "" if report.kept is None else f", {report.kept} of them kept"
    return (
        f"{report.statuses[OK]} of {report.sources} sources in the feature store `{storage.shown(report.store)}`: "
        f"{report.sampled} frames sampled{selected}, {report.stored} with features. "
        f"`longvu store show {storage.shown(report.store)}`"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
