"""CPU time of the whole decode path of extraction, against ``ray.data.read_videos(fps=1)``.

    python -m tests.benchmarks.decode_path [--files 3] [--rounds 3] [--sizes 96 378] [--film FILE] [--directory DIR]

Ours is ``decode_unit`` as a decode actor runs it: hashing the file, decoding in the supervised child, taking the frames
from it, padding and resizing them to the tower's input (96 pixels in the tiny preset, 378 in published models). Theirs
is a Ray dataset of one frame per second, decoded by decord as it comes, neither hashed nor resized, read to its end.
Files are a minute of 720p H.264 at 30 frames/s, with a key frame every 250 and every 60 frames at most: of the
synthetic corpus, and of the moving texture of ``tests.benchmarks.decode``, whose noise makes every picture expensive;
with ``--film`` also of real pictures: that film, scaled to 720p and run forth and back for a minute. They are made
once, which takes some minutes, and kept in DIR.

Both run in turns; figures are medians. Ours counts this process and its children. Theirs counts Ray's worker processes
alone: neither the driver, which reads the blocks, nor Ray's own daemons. Workers are warm: a run over all files comes
first. Exits with 1 if a ratio is above its limit or the numbers of frames differ.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import logging
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import psutil  # type: ignore[import-untyped]
import ray
import ray.data

from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, TowerPixels
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.extract.config import DecodeConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import index_sources
from pipelines.extract.measure import measure
from pipelines.extract.plan import Unit, plan_units
from tests.benchmarks.decode import generated

SECONDS = 60
CONTENTS = ("corpus", "texture")
UNIT_FRAMES = 512
# Frames between key frames -> CPU time of ours over theirs, at most.
LIMITS = {250: 0.45, 60: 0.30}


class CpuTime:
    """CPU seconds of some processes, those that end in between included: looked at often, the last value counts."""

    def __init__(self, processes: Callable[[], list[psutil.Process]]):
        self._processes = processes
        self._seconds: dict[tuple[int, float], float] = {}

    def look(self) -> float:
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seconds.values())

    def of(self, work: Callable[[], int]) -> tuple[float, int]:
        """CPU seconds of a piece of work, and what it returned."""
        ended = threading.Event()

        def keep_looking() -> None:
            while not ended.wait(0.2):
                self.look()

        before = self.look()
        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            result = work()
        finally:
            ended.set()
            watcher.join()
        return self.look() - before, result


def own_processes() -> list[psutil.Process]:
    """This process and the decoding child, but nothing of Ray."""
    me = psutil.Process()
    return [me, *(child for child in me.children() if not _is_ray(child))]


def ray_workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _title(child).startswith("ray::")]


def _is_ray(process: psutil.Process) -> bool:
    return "ray" in Path(_title(process).split(" ")[0]).parts


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def units_of(folder: Path) -> list[Unit]:
    sources = index_sources(str(folder))
    extents = {source.uri: measure(source.uri, "fps:1", UNIT_FRAMES) for source in sources}
    return plan_units(sources, extents, "benchmark", UNIT_FRAMES)


def ours(units: list[Unit], size: int) -> int:
    """Frames of all units."""
    pixels = {"dinov2": TowerPixels(size, IMAGENET_MEAN, IMAGENET_STD)}
    settings = DecodeSettings("fps:1", pixels, 0, DecodeConfig())
    fetcher = Fetcher(None, attempts=1)
    return sum(len(decode_unit(unit, settings, fetcher)[1]["dinov2"]) for unit in units)


def theirs(folder: Path) -> int:
    """Frames of all files."""
    dataset = ray.data.read_videos([str(path) for path in sorted(folder.iterdir())], fps=1)
    return sum(len(batch["frame"]) for batch in dataset.iter_batches(batch_size=None))


def compare(folder: Path, content: str, gop: int, rounds: int, sizes: list[int]) -> bool:
    """Print a row per size; False if a ratio is above its limit or frames differ in number."""
    units = units_of(folder)
    wanted = SECONDS * len(list(folder.iterdir()))
    own, workers = CpuTime(own_processes), CpuTime(ray_workers)
    counts = {ours(units, sizes[0]), theirs(folder)}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    their_seconds: list[float] = []
    for _ in range(rounds):
        for size in sizes:
            spent_s, count = own.of(functools.partial(ours, units, size))
            seconds[size].append(spent_s)
            counts.add(count)
        spent_s, count = workers.of(functools.partial(theirs, folder))
        their_seconds.append(spent_s)
        counts.add(count)
    their_ms = statistics.median(their_seconds) / wanted * 1000
    good = counts == {wanted}
    for size in sizes:
        our_ms = statistics.median(seconds[size]) / wanted * 1000
        ratio = our_ms / their_ms
        good &= ratio <= LIMITS[gop]
        verdict = "ok  " if ratio <= LIMITS[gop] else "FAIL"
        print(
            f"{verdict} {content}, GOP {gop:3}, input {size:3}: ours {our_ms:6.1f}, read_videos "
            f"{their_ms:6.1f} CPU ms per sampled frame, ratio {ratio:.3f} (limit {LIMITS[gop]:.2f})"
        )
    if counts != {wanted}:
        print(f"FAIL {content}, GOP {gop:3}: {wanted} frames expected, got {sorted(counts)}")
    return good


def write_film(path: Path, film: Path, gop: int) -> None:
    """A minute of a film's pictures, forth and back, in x264's default settings."""
    with av.open(str(film)) as source, av.open(str(path), "w") as container:
        pictures = [frame.reformat(1280, 720, "yuv420p") for frame in source.decode(video=0)]
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 1280, 720, "yuv420p", gop
        for number, picture in zip(range(SECONDS * 30), itertools.cycle([*pictures, *pictures[-2:0:-1]]), strict=False):
            picture.pts, picture.time_base, picture.pict_type = number, Fraction(1, 30), 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_files(folder: Path, content: str, gop: int, count: int, film: Path | None) -> None:
    """The same video under several names."""
    first = folder / "0.mp4"
    if not first.exists():
        print(f"writing {first} ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
    if not first.exists() and content == "texture":
        generated(first, 1280, 720, SECONDS, gop=gop)
    elif not first.exists() and film is not None and content == film.stem:
        write_film(first.with_suffix(".part.mp4"), film, gop)
        first.with_suffix(".part.mp4").rename(first)
    elif not first.exists():
        shape = CorpusConfig(num_videos=1, seconds=SECONDS, width=1280, height=720, fps=30, gop=gop)
        with tempfile.TemporaryDirectory() as scratch:
            (video,) = write_corpus(scratch, shape).directory.rglob("*.mp4")
            shutil.move(video, first)
    for number in range(1, count):
        if not (folder / f"{number}.mp4").exists():
            shutil.copyfile(first, folder / f"{number}.mp4")


@contextlib.contextmanager
def two_cpus() -> Iterator[None]:
    """A quiet Ray of two CPUs for the while."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=1 << 30,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> int:
    arguments = _arguments()
    good = True
    with two_cpus():
        print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Ray {ray.__version__}")
        contents = (*CONTENTS, arguments.film.stem) if arguments.film else CONTENTS
        for content, gop in itertools.product(contents, LIMITS):
            folder = Path(arguments.directory) / f"{content}-gop{gop}"
            write_files(folder, content, gop, arguments.files, arguments.film)
            good &= compare(folder, content, gop, arguments.rounds, arguments.sizes)
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decode_path", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3, help="files of each kind, by default 3")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, by default 3")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 378], help="input sides of the tower in pixels")
    parser.add_argument("--film", type=Path, metavar="FILE", help="a short video of your own, as a third content")
    parser.add_argument(
        "--directory",
        default=str(Path(tempfile.gettempdir()) / "longvu-decode-path-benchmark"),
        help="where generated videos are kept",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
