"""How much the stages of extraction wait for each other: the job's wall time over that of its slowest stage alone.

    python -m tests.benchmarks.pipeline_efficiency [--sampling fps:1] [--videos 72] [--rounds 2] [--set KEY=VALUE ...]

Units are synthetic videos of 100 s, encoded by the tiny preset. At one frame per second, as shipped, decoding takes
longest; at five, encoding takes as long as decoding, and both together all of two CPUs. Alone, a
stage runs over all units in a bare loop in this process, without Ray: as many workers as the job has on two CPUs, which
is one of each, so nothing but the work is counted. The job is the real one on a Ray of two CPUs. Its wall time is as in
its report, from the beginning of the first unit to the last commit; left out is listing and measuring sources, and
starting Ray, its actors and the towers. Alone and job take turns; figures are medians. Exits with 1 above the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from pipelines.config import load_config
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.extract.commit import unit_tables
from pipelines.extract.config import ExtractConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.encode import Encoder, EncodeSettings, encode_unit
from pipelines.extract.extraction import extract
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import index_sources
from pipelines.extract.measure import measure
from pipelines.extract.plan import plan_units
from pipelines.extract.report import StageSpeed
from pipelines.extract.towers import load_towers, model_folder
from pipelines.store import FeatureStore, commit_unit
from tests.benchmarks.decode_path import two_cpus

LIMIT = 1.25
SOURCES = 8


def write_videos(folder: Path, count: int) -> None:
    """Some videos, and copies of them under other names."""
    corpus = write_corpus(folder / "corpus", CorpusConfig(num_videos=min(SOURCES, count), seconds=100))
    videos = sorted(corpus.directory.rglob("*.mp4"))
    (folder / "videos").mkdir()
    for number in range(count):
        shutil.copyfile(videos[number % len(videos)], folder / "videos" / f"{number:03}.mp4")


class Alone:
    """Every stage over all units, one after the other."""

    def __init__(self, config: ExtractConfig, store: FeatureStore):
        self._store, self._specs = store, store.manifest.features
        bundle = load_towers(model_folder(config.model, Path(config.workdir)), tuple(spec.name for spec in self._specs))
        sources = index_sources(config.source)
        extents = {source.uri: measure(source.uri, config.sampling, config.unit_frames) for source in sources}
        self._units = plan_units(sources, extents, config.digest(), config.unit_frames)
        pixels = {name: bundle.pixels(name) for name in bundle.weights}
        self._decode = DecodeSettings(config.sampling, pixels, config.features.jpeg_edge_px, config.decode)
        self._fetcher = Fetcher(None, config.decode.read_attempts)
        encode = EncodeSettings(
            self._specs,
            config.keep_threshold,
            config.keep_all_below,
            config.encode.precision,
            config.encode.batch_frames,
            config.encode.compile,
        )
        self._encoder = Encoder.load(bundle, encode)

    def run(self) -> dict[str, float]:
        """Wall seconds of each stage."""
        seconds: dict[str, float] = {}

        def timed(name: str, call: Callable[[Any], Any], inputs: list[Any]) -> list[Any]:
            call(inputs[0])
            started_s = time.perf_counter()
            results = [call(item) for item in inputs]
            seconds[name] = time.perf_counter() - started_s
            return results

        decoded = timed("decode", lambda unit: decode_unit(unit, self._decode, self._fetcher), self._units)
        encoded = timed("encode", lambda given: encode_unit(given[0], given[1], self._encoder), decoded)
        timed("commit", self._commit, encoded)
        return seconds

    def _commit(self, given: tuple[dict[str, Any], dict[str, Any]]) -> None:
        frames, videos = unit_tables(given[0], given[1], self._specs)
        commit_unit(self._store.uri, given[0]["unit_id"], frames, videos, run_id="alone")


def run_job(config: ExtractConfig) -> tuple[StageSpeed, ...]:
    """A fresh job; the speeds in its report."""
    with two_cpus(), contextlib.redirect_stderr(io.StringIO()):
        return extract(config).stages


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    torch.set_num_threads(1)  # as Ray sets it for an actor of 0.75 CPUs
    alone: dict[str, list[float]] = {}
    walls: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_videos(Path(scratch), arguments.videos)
        settings = [f"source={scratch}/videos", f"workdir={scratch}", f"sampling={arguments.sampling}", *arguments.set]
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Ray {ray.__version__}, torch {torch.__version__}")
        for number in range(arguments.rounds):
            config = load_config(ExtractConfig, None, [*settings, f"store={scratch}/store{number}"])
            stages = run_job(config)
            walls.append(stages[0].frames / stages[0].achieved)
            (store,) = Path(config.store).glob("features/*")
            for name, seconds in Alone(config, FeatureStore.open(str(store))).run().items():
                alone.setdefault(name, []).append(seconds)
            _print_round(stages, walls[-1], alone)
    slowest = max(alone, key=lambda name: statistics.median(alone[name]))
    ratio = statistics.median(walls) / statistics.median(alone[slowest])
    print(
        f"{'ok  ' if ratio <= LIMIT else 'FAIL'} job {statistics.median(walls):.1f} s, slowest stage alone ({slowest}) "
        f"{statistics.median(alone[slowest]):.1f} s, ratio {ratio:.2f} (limit {LIMIT})"
    )
    return 0 if ratio <= LIMIT else 1


def _print_round(stages: tuple[StageSpeed, ...], wall_s: float, alone: dict[str, list[float]]) -> None:
    shares = ", ".join(
        f"{stage.name} {alone[stage.name][-1]:.1f} s alone, {stage.busy_s:.1f} s in the job ({stage.actors} actors)"
        for stage in stages
    )
    print(f"     {stages[0].frames} frames, job {wall_s:.1f} s; {shares}")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.pipeline_efficiency", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--sampling", default="fps:1", help="frames of a video, by default fps:1")
    parser.add_argument("--videos", type=int, default=72, help="videos of 100 s, by default 72")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the job and the stages alone, by default 2")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING", help="further settings of the job")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
