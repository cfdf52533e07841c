"""Memory of a whole extraction on two CPUs: the sum over all its processes, for a short and for a long video.

    python -m tests.benchmarks.memory [--minutes 5 60] [--unit-frames 128] [--limited] [--directory DIR]

Runs the job on one synthetic 320x176 video of each length, with the tiny preset and with Ray's object store as large as
Ray makes it on a machine of 4 GB. Sampled is the proportional set size (PSS) of every process of the run, Ray's own and
its shared memory included, so nothing is counted twice. Memory depends on the size of a unit, so units are made small
enough that the shorter video too fills every stage. With ``--limited`` (root, and a kernel that lets control groups be
made) the kernel itself gives the run 4 GB, page cache included, and kills it when that is not enough. Exits with 1 if a
peak is above 4 GB or if the longest video takes more than 10 % over the shortest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.benchmarks.decode import generated, repeated
from tests.faults.job import EXTRACT, Job

_MACHINE_BYTES = 4 << 30
_GROWTH = 1.10
_SAMPLE_EVERY_S = 0.1
# 30 % of the machine's memory is Ray's default for its object store.
_ENVIRONMENT = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(_MACHINE_BYTES * 3 // 10)}
_KINDS = {
    "DecodeActor": "decode actors",
    "EncodeActor": "encode actors",
    "CommitActor": "commit actors",
    "video.child": "decoding children",
    "jobs.extract": "driver",
}


def main() -> int:
    options = _arguments()
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    minute = generated(directory / "minute_180p.mp4", 320, 176, 60)
    _use_two_cpus()
    peaks = []
    for minutes in options.minutes:
        video = repeated(minute, directory / f"minutes_{minutes}.mp4", minutes)
        with tempfile.TemporaryDirectory(prefix="longvu-memory-") as name, contextlib.ExitStack() as stack:
            command = stack.enter_context(_limited(_MACHINE_BYTES)) if options.limited else EXTRACT
            peak, parts, seconds = _peak(video, Path(name), directory / "work", options.unit_frames, command)
        peaks.append(peak)
        shares = ", ".join(f"{kind} {size >> 20}" for kind, size in parts.most_common())
        print(f"{minutes:4} min: peak {peak >> 20} MiB of all processes in {seconds:.0f} s ({shares})", flush=True)
    ratio = peaks[-1] / peaks[0]
    gib = max(peaks) / (1 << 30)
    print(f"longest over shortest video {ratio:.3f} (at most {_GROWTH}); peak {gib:.2f} GiB (at most 4)")
    return 0 if ratio <= _GROWTH and max(peaks) <= _MACHINE_BYTES else 1


def _use_two_cpus() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


@contextlib.contextmanager
def _limited(size: int) -> Iterator[tuple[str, ...]]:
    """The job's command in a control group of so many bytes."""
    first = Path("/sys/fs/cgroup/memory")  # version 1 of the interface
    root, name = (first, "memory.limit_in_bytes") if first.is_dir() else (first.parent, "memory.max")
    group = root / f"longvu-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(size))
        yield ("bash", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *EXTRACT)
    finally:
        while (group / "cgroup.procs").read_text():
            time.sleep(0.1)  # Ray's agents end by themselves
        group.rmdir()


def _peak(
    video: Path, folder: Path, workdir: Path, unit_frames: int, command: Sequence[str]
) -> tuple[int, Counter[str], float]:
    """Bytes at the worst moment, who had them, and the run's wall time."""
    words = [f"source={video}", f"store={folder}", f"workdir={workdir}", f"unit_frames={unit_frames}"]
    worst: Counter[str] = Counter()
    with Job(words, folder, _ENVIRONMENT, command) as job:
        while job.exit_code is None:
            now = _sizes(job)
            worst = max(worst, now, key=Counter.total)
            time.sleep(_SAMPLE_EVERY_S)
        assert job.exit_code == 0, job.stderr
        return worst.total(), worst, time.monotonic() - job.started_s


def _sizes(job: Job) -> Counter[str]:
    """PSS in bytes by kind of process."""
    sizes: Counter[str] = Counter()
    for process in job.processes():
        with contextlib.suppress(psutil.Error, OSError):
            line = " ".join(process.cmdline())
            kind = next((name for part, name in _KINDS.items() if part in line), "Ray")
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            sizes[kind] += next(int(row.split()[1]) << 10 for row in rollup.splitlines() if row.startswith("Pss:"))
    return sizes


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 60], help="lengths of the videos, shortest first")
    parser.add_argument("--unit-frames", type=int, default=128, help="as the setting of that name; 5 min are 300")
    parser.add_argument("--limited", action="store_true", help="let the kernel keep the run within 4 GB")
    parser.add_argument(
        "--directory",
        default=str(Path(tempfile.gettempdir()) / "longvu-decode-benchmark"),
        help="where generated videos are kept",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
