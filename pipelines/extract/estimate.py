"""What a run would do and cost, without doing it: nothing is written and nothing decoded.

The printed error is that of the sample of videos that was looked at, not of the speeds behind it. What the store has
seen of its sources so far is preferred to timings and assumptions.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.config import ExtractConfig
from pipelines.extract.extraction import chosen_features
from pipelines.extract.families import Family, Feature, family
from pipelines.extract.history import History, read_history
from pipelines.extract.index import VIDEO
from pipelines.extract.towers import existing_folder, family_of
from pipelines.extract.work import Work
from pipelines.extract.workload import Amount, Sample, Workload, find_workload
from pipelines.store.features import FeatureSpec
from pipelines.store.schema import SELECTING

SAMPLE = 64
# Of videos longer than keep_all_below, until the store has some: between a film and a fixed camera.
_ASSUMED_STORED = 0.5
# Features after byte-splitting and zstd: their low bytes are noise.
_ASSUMED_COMPRESSION = 0.85


@dataclass(frozen=True)
class Estimate:
    """What is left to do and what it would take.

    Args:
        store: URI of the store.
        sources: all that was asked for, by kind.
        left: sources that are not finished; ``retries`` of them failed before.
        source_bytes: size of these.
        workload: their units, frames and decoding.
        encode_s: device-seconds of the towers.
        stored_frames: frames whose features are stored.
        stored_bytes: what the store will grow by.
        wall_s: with the pools of this cluster, start-up not counted.
        price: of that time; None without a price per hour.
        notes: where the numbers come from.
    """

    store: str
    sources: dict[str, int]
    left: int
    retries: int
    source_bytes: int
    workload: Workload
    encode_s: Amount
    stored_frames: Amount
    stored_bytes: Amount
    wall_s: Amount
    price: Amount | None
    notes: tuple[str, ...]

    def print(self, file: IO[str] | None = None) -> None:
        """Write it, one line each."""
        out = file or sys.stdout
        kinds = "  ".join(f"{kind}s {count}" for kind, count in self.sources.items())
        again = f"  again from quarantine {self.retries}" if self.retries else ""
        frames, stored = self.workload.frames, self.stored_frames
        lines = {
            "sources": f"{kinds}  left {self.left} ({_size(self.source_bytes)}){again}",
            "units": f"{math.ceil(self.workload.units.value):,}{_error(self.workload.units)}",
            "frames": f"sampled {frames.value:,.0f}{_error(frames)}  with features {stored.value:,.0f}",
            "decode": f"{_hours(self.workload.decode_s.value)} of one CPU{_error(self.workload.decode_s)}",
            "encode": f"{_hours(self.encode_s.value)} of one device{_error(self.encode_s)}",
            "size": f"{_size(self.stored_bytes.value)}{_error(self.stored_bytes)}",
            "time": f"{_hours(self.wall_s.value)} on this cluster, start-up not counted{_error(self.wall_s)}",
        }
        if self.price is not None:
            lines["price"] = f"{self.price.value:,.2f}{_error(self.price)}"
        for name, line in (lines | {"store": storage.shown(self.store)}).items():
            print(f"{name:8} {line}", file=out)
        for note in self.notes:
            print(f"note     {note}", file=out)


def estimate(
    config: ExtractConfig,
    work: Work,
    *,
    resources: Mapping[str, float] | None = None,
    encode_frames_per_s: float | None = None,
    price_per_hour: float | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Estimate:
    """Predict what :func:`pipelines.extract.extraction.extract` would do with ``work``.

    Args:
        resources: the cluster's, as Ray names them; looked up when absent.
        encode_frames_per_s: speed of one encode actor; the store's history or a timing here when absent.
        price_per_hour: of the whole cluster.
        sample: new videos to look at, at most.
        seed: which ones.

    Raises:
        UserError: no such model, or the storage does not answer.
    """
    resources = cluster_resources(config) if resources is None else resources
    history = read_history(work.store)
    workload, looked_at = find_workload(config, work, sample, seed)
    workload = Workload(workload.units, workload.frames, workload.long_frames, workload.decode_s * history.slowness)
    found, model = _model(config)
    features = [found.feature(name) for name in chosen_features(config, found)]
    specs = [FeatureSpec(one.name, *one.shape(model), config.features.dtype) for one in features]
    if features[0].name != SELECTING:  # every frame is stored
        workload = dataclasses.replace(workload, long_frames=Amount())
    stored_frames, stored_bytes, storing = _stored(workload, history, specs)
    encode_s, encoding = _encode(config, workload, stored_frames, history, encode_frames_per_s, features, model)
    wall_s, pools = _wall(config, resources, workload.decode_s, encode_s)
    pending = {member.identity: member.size_bytes for unit in work.pending for member in unit.members}
    return Estimate(
        store=work.store,
        sources={VIDEO: 0} | Counter(source.kind for source in work.sources),
        left=len(work.fresh) + len(pending),
        retries=len(work.retries),
        source_bytes=sum(source.size_bytes for source in work.fresh) + sum(pending.values()),
        workload=workload,
        encode_s=encode_s,
        stored_frames=stored_frames,
        stored_bytes=stored_bytes,
        wall_s=wall_s,
        price=wall_s * (price_per_hour / 3600) if price_per_hour is not None else None,
        notes=(_seen(looked_at), _decoding(history), encoding, storing, pools),
    )


def cluster_resources(config: ExtractConfig) -> dict[str, float]:
    """Resources of the cluster that ``RAY_ADDRESS`` names, else of this machine, as a run would find them."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        from pipelines.ray_session import ray_session

        with ray_session(0):
            return dict(ray.cluster_resources())
    import torch

    return {"CPU": float(max(2, os.cpu_count() or 1)), "GPU": float(torch.cuda.device_count())}


def _seen(sample: Sample) -> str:
    seen = "all" if sample.measured == sample.videos else f"{sample.measured} of {sample.videos}"
    empty = f"; {sample.empty} of these gave no frame and count as nothing" if sample.empty else ""
    return f"videos: looked at {seen} new ones{empty}; +- is two standard errors of that"


def _decoding(history: History) -> str:
    if history.stored_fraction is None:
        return "decode: predicted from headers for the machine of docs/benchmarks.md; another may differ by 2"
    return f"decode: predicted from headers, times {history.slowness:.2f} as in this store so far"


def _model(config: ExtractConfig) -> tuple[Family, Any]:
    """The model's family and configuration, without its weights; a preset is not built for it."""
    from longvu_model.presets import preset_config, preset_names

    folder = existing_folder(config.model, Path(config.workdir))
    if folder is None:
        if config.model not in preset_names():
            presets = ", ".join(preset_names())
            raise UserError(f"model={config.model}: neither a checkpoint folder nor a preset ({presets})")
        model = preset_config(config.model)
        return family(str(model.model_type)), model
    found = family_of(folder)
    try:
        return found, found.read_config(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"model={folder}: {error}") from None


def _stored(workload: Workload, history: History, specs: Sequence[FeatureSpec]) -> tuple[Amount, Amount, str]:
    """Frames with features, their bytes, and where that comes from."""
    if history.stored_fraction is not None and history.bytes_per_stored_frame is not None:
        frames = workload.frames * history.stored_fraction
        note = f"size: {history.stored_fraction:.0%} of frames with features, as in this store so far"
        return frames, frames * history.bytes_per_stored_frame, note
    dropped = workload.long_frames * (_ASSUMED_STORED - 1)
    frames = Amount(workload.frames.value + dropped.value, workload.frames.error)
    frame_bytes = sum(spec.frame_bytes for spec in specs) * _ASSUMED_COMPRESSION
    stored = "every frame is stored"
    if any(spec.name == SELECTING for spec in specs):
        stored = f"assumed that {_ASSUMED_STORED:.0%} of the frames of long videos differ enough to be stored"
    note = (
        f"size: {stored}, and {_ASSUMED_COMPRESSION:g} from compression; thumbnails and columns of stages not counted"
    )
    return frames, frames * frame_bytes, note


def _encode(
    config: ExtractConfig,
    workload: Workload,
    stored: Amount,
    history: History,
    frames_per_s: float | None,
    features: Sequence[Feature],
    model: Any,
) -> tuple[Amount, str]:
    """Device-seconds, and where the speed comes from."""
    if frames_per_s is not None:
        return workload.frames * (1 / frames_per_s), f"encode: {frames_per_s:g} frames/s of one device, as given"
    if history.encode_s_per_frame is not None:
        note = f"encode: {1 / history.encode_s_per_frame:.4g} frames/s of one actor, as in this store so far"
        return workload.frames * history.encode_s_per_frame, note
    from pipelines.extract.encode_cost import tower_cost

    costs = [tower_cost(model, feature, config.encode.precision, config.encode.batch_frames) for feature in features]
    # The towers behind the one that selects see what it selected.
    total = workload.frames * costs[0].seconds
    for cost in costs[1:]:
        total += stored * cost.seconds
    gigaflops = ", ".join(
        f"{feature.name} {cost.flops / 1e9:,.4g}" for feature, cost in zip(features, costs, strict=True)
    )
    device, precision = costs[0].device, config.encode.precision
    note = f"encode: {gigaflops} GFLOP a frame, timed on this machine's {device} in {precision}"
    return total, f"{note}; --encode-frames-per-s gives another device's speed"


def _wall(
    config: ExtractConfig, resources: Mapping[str, float], decode_s: Amount, encode_s: Amount
) -> tuple[Amount, str]:
    """Time of the slowest stage; where encoding takes CPUs too, also of both on all CPUs."""
    from pipelines.extract.dataflow import pool_sizes

    pools = pool_sizes(config, resources)
    cpus = resources.get("CPU", 1.0)
    others = (pools.encode * config.encode.cpus + config.commit.cpus) / config.decode.cpus
    decoders = max(1, min(pools.decode, math.floor(cpus / config.decode.cpus - others)))
    stages = [decode_s * (1 / decoders), encode_s * (1 / pools.encode)]
    if not pools.encode_gpus:
        stages.append((decode_s + encode_s * (config.encode.threads or os.cpu_count() or 1)) * (1 / cpus))
    note = f"time: {decoders} decode and {pools.encode} encode actors at most, on {cpus:g} CPUs"
    return max(stages, key=lambda stage: stage.value), note


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.4g} h"


def _error(amount: Amount) -> str:
    return f" +- {amount.error / amount.value:.0%}" if amount.error and amount.value else ""
