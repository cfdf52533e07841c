"""What one per cent of new videos costs, beside the full run.

    python -m tests.benchmarks.incremental [--videos 200] [--finished 100000] [--directory DIR]

Runs the real job with the tiny preset: over one video (what starting Ray, torch and the towers costs; before and after
the others), over all videos, over all again with 1 % new ones (floor: 2 % of the full run), and again with nothing new.
Time and CPU are those of the whole process tree. Start-up is the same for one video and a hundred thousand, so the
ratio is given both as it is and with start-up taken off both sides.

Then, without running anything: looking for what is new among ``--finished`` finished videos (floor: 10 s), and the
ratio at that number of such videos, start-up and looking included, computed from all this. Exits with 1 if the ratio
without start-up, or the time of looking, misses its floor.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines import storage
from pipelines.extract.config import ExtractConfig
from pipelines.extract.plan import Extent, plan_units, write_plan
from pipelines.extract.work import find_work, store_uri
from tests.benchmarks.decode import repeated
from tests.pipelines.conftest import write_video

_FLOOR = 0.02
_LOOKING_FLOOR_S = 10.0
_POLL_S = 0.2
# Long enough that the full run is not lost in the scatter of start-up, half a CPU-second either way.
_MINUTES = 5
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """Seconds of a run, its start-up included unless that was taken off."""

    wall_s: float
    cpu_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.wall_s * factor, self.cpu_s * factor)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)

    def __truediv__(self, other: Cost) -> Cost:
        return Cost(self.wall_s / other.wall_s, self.cpu_s / other.cpu_s)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.incremental", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=200, help="videos in the full run")
    parser.add_argument("--finished", type=int, default=100_000, help="finished videos to look through")
    parser.add_argument("--directory", type=Path, help="where videos are kept; a temporary folder when absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        videos = options.directory or Path(temporary) / "videos"
        start, full, beyond = compare_runs(videos, Path(temporary), options.videos)
        looking = look_through(Path(temporary) / "scale", options.finished)
    new = options.finished // 100
    each_s = (full - start).cpu_s / (options.videos - 1)
    at_scale = (start.cpu_s + looking.cpu_s + new * each_s) / (start.cpu_s + options.finished * each_s)
    print(f"+1% of {options.finished:,} such videos, computed: CPU {at_scale:.2%} of the full run, start-up included")
    return 0 if max(beyond.cpu_s, beyond.wall_s) <= _FLOOR and looking.wall_s <= _LOOKING_FLOOR_S else 1


def compare_runs(videos: Path, scratch: Path, count: int) -> tuple[Cost, Cost, Cost]:
    """Run the job over one, all, all and new, all again.

    Returns:
        cost of one and of all, and the ratio of all and new to all without start-up.
    """
    new = max(1, count // 100)
    for number in range(count + new):
        path = videos / f"{number:05}.mp4"
        if not path.exists():
            minute = write_video(videos / "minute" / path.name, [25, 20, 15], seed=number)
            repeated(minute, path, _MINUTES)
    files = sorted(videos.glob("*.mp4"))
    lists = scratch / "lists"
    lists.mkdir()

    def job(name: str, chosen: list[Path], root: Path) -> Cost:
        (lists / f"{name}.txt").write_text("\n".join(map(str, chosen)))
        return run_job(lists / f"{name}.txt", root, scratch / "work")

    job("warm", files[:1], scratch / "warm")  # builds the preset
    before = job("one", files[:1], scratch / "before")
    full = job("all", files[:count], scratch / "store")
    more = job("more", files[: count + new], scratch / "store")
    idle = job("again", files[: count + new], scratch / "store")
    after = job("one", files[:1], scratch / "after")
    start = (before + after) * 0.5
    _print("one video: start-up, first", before)
    _print("one video: start-up, second", after)
    _print(f"{count} videos: full run", full)
    _print(f"{new} new among {count + new}", more)
    _print(f"nothing new among {count + new}", idle)
    raw, beyond = more / full, (more - start) / (full - start)
    print(f"+{new / count:.0%} as it is:         wall {raw.wall_s:6.1%}  CPU {raw.cpu_s:6.1%}  of the full run")
    print(
        f"+{new / count:.0%} without start-up: wall {beyond.wall_s:6.1%}  CPU {beyond.cpu_s:6.1%}  "
        f"floor {_FLOOR:.0%}  {'ok' if max(beyond.wall_s, beyond.cpu_s) <= _FLOOR else 'MISSED'}"
    )
    return start, full, beyond


def run_job(source: Path, store: Path, workdir: Path) -> Cost:
    """Time the extraction job, and the CPU of all its processes."""
    words = [sys.executable, "-m", "jobs.extract", f"source={source}", f"store={store}", f"workdir={workdir}"]
    started_s = time.monotonic()
    job = subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watch = _TreeWatch(job.pid)
    _, complaint = job.communicate()
    wall_s = time.monotonic() - started_s
    if job.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {job.returncode}:\n{complaint}")
    return Cost(wall_s, watch.stop())


class _TreeWatch(threading.Thread):
    """CPU-seconds of a process and all that descend from it, as last seen of each."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._seen: dict[psutil.Process, float] = {}
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(_POLL_S):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    spent = process.cpu_times()
                except psutil.Error:
                    continue
                self._seen[process] = spent.user + spent.system

    def stop(self) -> float:
        self._over.set()
        self.join()
        return sum(self._seen.values())


def look_through(folder: Path, finished: int) -> Cost:
    """Time looking for new videos among many finished ones, whose commits were never compacted."""
    config = ExtractConfig(source=str(folder / "videos"), store=str(folder / "runs"))
    new = max(1, finished // 100)
    for number in range(finished):
        path = folder / "videos" / f"{number // 1000:04}" / f"{number % 1000:04}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    work = find_work(config)
    extents = {source.uri: Extent(3600, fps=30.0, step=30) for source in work.fresh}
    commits = storage.local_path(store_uri(config)) / "commits"
    commits.mkdir(parents=True)
    for first in range(0, finished, 2000):
        part = work.fresh[first : first + 2000]
        # One unit a video: as many of either as there are videos.
        units = plan_units(part, extents, config.digest(), 3600)
        write_plan(work.store, f"{first:09}", units)
        for unit in units:
            (commits / f"{unit.unit_id}.json").touch()
    for number in range(new):
        (folder / "videos" / f"new{number:06}.mp4").touch()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    work = find_work(config)
    cost = Cost(time.perf_counter() - started_s, time.process_time() - started_cpu_s)
    assert (len(work.fresh), work.pending) == (new, [])
    shutil.rmtree(folder)
    _print(f"looking: {new} new among {finished:,}", cost)
    print(
        f"looking through {finished:,}: {cost.wall_s:.1f} s, floor {_LOOKING_FLOOR_S:g} s  "
        f"{'ok' if cost.wall_s <= _LOOKING_FLOOR_S else 'MISSED'}"
    )
    return cost


def _print(what: str, cost: Cost) -> None:
    print(f"{what:34} wall {cost.wall_s:7.2f} s  CPU {cost.cpu_s:7.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
