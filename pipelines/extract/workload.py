"""How much there is to do: units, frames and decoding of what is left, of a large corpus from a sample of its videos.

The sample is extrapolated by the size of the files, which listings tell of all.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.extract.config import ExtractConfig
from pipelines.extract.index import VIDEO, Source
from pipelines.extract.measure import measure
from pipelines.extract.plan import Extent, Unit, plan_units
from pipelines.extract.work import Work

_TIMEOUT_S = 60.0
_PROCESSES = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Amount:
    """A number and how far off it may be: two standard errors of the sample it comes from."""

    value: float = 0.0
    error: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.value + other.value, math.hypot(self.error, other.error))

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.value * factor, self.error * factor)


@dataclass(frozen=True)
class Workload:
    """What is left to do.

    Args:
        units: units of work.
        frames: sampled frames; ``long_frames`` of them are of videos too long to store every frame.
        decode_s: CPU-seconds.
    """

    units: Amount = Amount()
    frames: Amount = Amount()
    long_frames: Amount = Amount()
    decode_s: Amount = Amount()

    def __add__(self, other: Workload) -> Workload:
        return Workload(
            self.units + other.units,
            self.frames + other.frames,
            self.long_frames + other.long_frames,
            self.decode_s + other.decode_s,
        )


@dataclass(frozen=True)
class Sample:
    """How many new videos there are, how many were measured, and of these, how many gave no frame or no answer."""

    videos: int
    measured: int
    empty: int


def find_workload(config: ExtractConfig, work: Work, sample: int, seed: int) -> tuple[Workload, Sample]:
    """What is left of ``work``: planned units and images exactly, new videos from a random sample."""
    videos = [source for source in work.fresh if source.kind == VIDEO]
    images = [source for source in work.fresh if source.kind != VIDEO]
    planned = [*work.pending, *plan_units(images, {}, config.digest(), config.unit_frames)]
    chosen = random.Random(seed).sample(videos, min(sample, len(videos)))
    extents = measure_sample(chosen, config)
    empty = sum(not (extent and extent.count) for extent in extents)
    loads = [_of_video(source, extent, config) for source, extent in zip(chosen, extents, strict=True)]
    return _of_units(planned, config) + _extrapolated(chosen, loads, videos), Sample(len(videos), len(chosen), empty)


def measure_sample(sources: Sequence[Source], config: ExtractConfig) -> list[Extent | None]:
    """Extents in processes of their own; None for files that take longer than a minute together, or end a process."""
    if not sources:
        return []
    # No executor: its end would wait for a decoder that hangs.
    pool = multiprocessing.get_context("spawn").Pool(min(_PROCESSES, len(sources)))
    try:
        tasks = [pool.apply_async(measure, (source.uri, config.sampling, config.unit_frames)) for source in sources]
        until_s = time.monotonic() + _TIMEOUT_S
        extents: list[Extent | None] = []
        for task in tasks:
            try:
                extents.append(task.get(max(0.0, until_s - time.monotonic())))
            except multiprocessing.TimeoutError:
                extents.append(None)
        return extents
    finally:
        pool.terminate()


def _of_units(units: Sequence[Unit], config: ExtractConfig) -> Workload:
    members = [member for unit in units for member in unit.members]
    return _exact(
        len(units),
        sum(member.expected_samples or 0 for member in members),
        sum(member.expected_samples or 0 for member in members if _is_long(member.total_samples or 0, config)),
        sum(member.predicted_s for member in members),
    )


def _of_video(source: Source, extent: Extent | None, config: ExtractConfig) -> Workload:
    """One video's share; grouped with others like it, a short one is a fraction of a unit."""
    if extent is None:
        return _exact(1, 0, 0, 0.0)
    units = extent.count / config.unit_frames
    long_frames = extent.count if _is_long(extent.count, config) else 0
    return _exact(math.ceil(units) if units > 1 else units, extent.count, long_frames, extent.predicted_s)


def _is_long(total_samples: int, config: ExtractConfig) -> bool:
    return total_samples > config.keep_all_below


def _exact(units: float, frames: int, long_frames: int, decode_s: float) -> Workload:
    return Workload(Amount(units), Amount(frames), Amount(long_frames), Amount(decode_s))


def _extrapolated(chosen: Sequence[Source], loads: Sequence[Workload], videos: Sequence[Source]) -> Workload:
    sizes = np.array([source.size_bytes for source in chosen], np.float64)
    total_bytes = float(sum(source.size_bytes for source in videos))

    def total(part: Callable[[Workload], Amount]) -> Amount:
        return ratio_estimate(np.array([part(load).value for load in loads]), sizes, len(videos), total_bytes)

    return Workload(
        total(lambda load: load.units),
        total(lambda load: load.frames),
        total(lambda load: load.long_frames),
        total(lambda load: load.decode_s),
    )


def ratio_estimate(values_n: np.ndarray, sizes_n: np.ndarray, population: int, total_size: float) -> Amount:
    """The total of a population from a random sample without replacement, in proportion to sizes that all are known.

    Cochran, Sampling Techniques, chapter 6; the error is 0 where the sample is everything.
    """
    count = len(values_n)
    if not count or not sizes_n.sum():
        return Amount()
    ratio = values_n.sum() / sizes_n.sum()
    if count == population:
        return Amount(float(values_n.sum()))
    if count == 1:
        return Amount(float(ratio * total_size), math.inf)
    variance = float(((values_n - ratio * sizes_n) ** 2).sum() / (count - 1))
    standard_error = population * math.sqrt((1 - count / population) * variance / count)
    return Amount(float(ratio * total_size), 2 * standard_error)
