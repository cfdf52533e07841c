"""What evaluation promises: kills cost nothing, a video is encoded once, two workers do twice the work.

    python -m tests.benchmarks.evaluate [--kills 10] [--videos 20] [--seconds 60] [--only kills|sharing|workers]

Kills: the real job on Ray against an endpoint that counts (a scripted one: it answers by checksum), its driver and its
workers killed in turn at random moments; then the same command again (floors: no question asked after its answer was
written, the scores of an undisturbed run, no request and at most 10 s the second time).
Sharing: 16 questions about one video with the tiny preset, asked together, and one by one with the video decoded and
encoded each time, in turns in one process (floor: 6 times).
Workers: the job on Ray with the tiny preset, one thread per worker and each worker held to a core of its own, decoder
included; videos per second with one and with two workers over the second half of the videos, when both are loaded
(floor: 1.6 times), the whole run, and the CPU seconds of the workers, which load of others does not change. Needs two
idle cores.

Exits with 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from longvu_model.presets import build_preset
from longvu_model.video import FrameSampling
from pipelines.evaluate.answerers import Ask
from pipelines.evaluate.answers import AnswerLog
from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.local_answerer import LocalAnswerer
from pipelines.evaluate.preparation import prepare
from pipelines.evaluate.tasks.media import Shown
from tests.faults.evaluation import WORKER, CountingEndpoint, results_of, run_through_kills, start, words_of
from tests.pipelines.conftest import write_video
from tests.pipelines.evaluate.conftest import config_of, run_against
from tests.pipelines.evaluate.small_benchmark import video_file, write_benchmark
from tests.pipelines.evaluate.test_local_answerer import settings

_SECOND_RUN_S, _SHARING, _WORKERS = 10.0, 6.0, 1.6
_QUESTIONS = 16
# Looking through all processes takes time of the cores that are measured.
_LOOK_EVERY_S = 1.0
_SIZE = (640, 352)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="how many")
    parser.add_argument("--videos", type=int, default=40, help="videos that workers share")
    parser.add_argument("--seconds", type=int, default=60, help="length of each")
    parser.add_argument("--only", choices=("kills", "sharing", "workers"), help="one of the three")
    options = parser.parse_args()
    chosen = [options.only] if options.only else ["kills", "sharing", "workers"]
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "kills" in chosen:
            good &= kills(folder / "kills", options.kills)
        if "sharing" in chosen:
            good &= sharing(folder / "sharing", options.seconds)
        if "workers" in chosen:
            good &= workers(folder / "workers", options.videos, options.seconds)
    return 0 if good else 1


def kills(folder: Path, count: int) -> bool:
    """Kill drivers and workers in turn."""
    videos, questions = 20, 6
    data = write_benchmark(folder / "data", videos, questions, seconds=2)
    with CountingEndpoint() as server:
        words = words_of(folder, data, server)
        victims = [("worker", "driver")[number % 2] for number in range(count)]
        account = run_through_kills(folder, words, server, victims, videos * questions)
        before, started_s = len(server.requests), time.monotonic()
        with start(folder, words) as again:
            again.wait()
        second_s, second = time.monotonic() - started_s, len(server.requests) - before
    with CountingEndpoint() as other:
        undisturbed = run_against(other.url, folder / "undisturbed", data)
    same = results_of(folder).rows.select(["row", "score"]).equals(undisturbed.results.rows.select(["row", "score"]))
    late = len(account.asked_after_answered)
    enough = len(account.kills) == count and account.exit_codes[-1] == 0
    victims_hit = ", ".join(sorted({victim for victim, _ in account.kills}))
    good = not late and same and not second and second_s <= _SECOND_RUN_S and enough
    print(
        f"kills: {len(account.kills)} of {count} wanted, of {victims_hit}, in "
        f"{videos * questions} questions; {account.repeated} asked again, {late} of them after their answer was "
        f"written (floor 0); scores {'the same' if same else 'DIFFER'}  {_verdict(good)}",
        flush=True,
    )
    print(f"second run: {second} requests (floor 0), {second_s:.1f} s (floor {_SECOND_RUN_S:g} s)", flush=True)
    return good


def sharing(folder: Path, seconds: int) -> bool:
    """Many questions about one video, together and one by one."""
    video = write_video(folder / "video.mp4", [seconds], size=_SIZE)
    answerer = LocalAnswerer(settings(build_preset("tiny", folder / "tiny"), slots=_QUESTIONS))
    shown = Shown(video, FrameSampling(fps=4.0))
    asks = [Ask(f"Question {number}: what is seen at the end?") for number in range(_QUESTIONS)]

    def together() -> None:
        assert len(list(answerer.answer(answerer.look(shown, None), asks))) == _QUESTIONS

    def one_by_one() -> None:
        for ask in asks:
            assert len(list(answerer.answer(answerer.look(shown, None), [ask]))) == 1

    seconds_of: dict[str, list[float]] = {"together": [], "one by one": []}
    together()  # caches, the decoding child
    for _ in range(3):
        for name, way in (("together", together), ("one by one", one_by_one)):
            started_s = time.perf_counter()
            way()
            seconds_of[name].append(time.perf_counter() - started_s)
    answerer.close()
    fast, slow = (statistics.median(seconds_of[name]) for name in ("together", "one by one"))
    good = slow >= _SHARING * fast
    print(
        f"sharing: {_QUESTIONS} questions about one video of {seconds} s: {fast:.2f} s together, {slow:.2f} s one by "
        f"one with encoding each time: {slow / fast:.1f}x (floor {_SHARING:g}x)  {_verdict(good)}",
        flush=True,
    )
    return good


def workers(folder: Path, videos: int, seconds: int) -> bool:
    """Videos per second with one and with two workers."""
    model = build_preset("tiny", folder / "tiny")
    data = write_benchmark(folder / "data", videos, 2, seconds=1)
    shared = write_video(folder / "shared.mp4", [seconds], size=_SIZE).read_bytes()
    for number in range(videos):  # the same pictures under different digests
        video_file(data, number).write_bytes(shared + struct.pack(">I4s", 8, b"free") * number)

    def run(count: int, limit: int) -> Pace:
        config = config_of(
            folder / f"{count}", data, f"limit={2 * limit}", "frames=fps:4", f"workers.count={count}",
            "workers.threads=1", "workers.cpus=1", "workers.videos=1", model=model,
        )  # fmt: skip
        started_s = time.monotonic()
        with _own_cores() as spent_s:
            prepared = prepare(config, model)
            assert evaluate(prepared).asked == 2 * limit
        whole_s = time.monotonic() - started_s
        answers = AnswerLog(prepared.log_uri).answers.values()
        pace = pace_of([(answer.media, answer.time_s) for answer in answers], whole_s, sum(spent_s.values()))
        shutil.rmtree(folder / f"{count}")
        return pace

    run(1, 1)  # MLflow's database
    paces = {count: run(count, videos) for count in (1, 2)}
    for count, pace in paces.items():
        print(
            f"workers: {count}: {pace.whole_s:.1f} s for {videos} videos, {pace.videos_per_s:.2f} videos/s over their "
            f"second half, {pace.cpu_s / videos:.2f} s of CPU per video, loading included",
            flush=True,
        )
    steady = paces[2].videos_per_s / paces[1].videos_per_s
    good = steady >= _WORKERS
    print(
        f"workers: two against one: {steady:.2f}x steady (floor {_WORKERS:g}x), "
        f"{paces[1].whole_s / paces[2].whole_s:.2f}x the whole run, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}  {_verdict(good)}",
        flush=True,
    )
    return good


@dataclass(frozen=True)
class Pace:
    """How fast a run went.

    Attributes:
        videos_per_s: over the second half of the videos, when all workers have long been there.
        cpu_s: of the workers and their decoders.
    """

    whole_s: float
    videos_per_s: float
    cpu_s: float


def pace_of(answers: Sequence[tuple[str, float]], whole_s: float, cpu_s: float) -> Pace:
    """The pace of a run from the media and times of its answers."""
    done_s: dict[str, float] = {}
    for media, time_s in answers:
        done_s[media] = max(time_s, done_s.get(media, 0.0))
    times_s = sorted(done_s.values())
    half = len(times_s) // 2
    return Pace(whole_s, (len(times_s) - half) / max(times_s[-1] - times_s[half - 1], 1e-9), cpu_s)


@contextlib.contextmanager
def _own_cores() -> Iterator[dict[int, float]]:
    """Hold each worker of this process, and the decoders it starts, to a core of its own; yields their CPU seconds."""
    over, spent_s = threading.Event(), dict[int, float]()
    cores = sorted(os.sched_getaffinity(0))

    def hold() -> None:
        known: list[int] = []
        while not over.wait(_LOOK_EVERY_S):
            with contextlib.suppress(psutil.Error, OSError):
                for process in psutil.Process().children(recursive=True):
                    if WORKER in " ".join(process.cmdline()):
                        known += [process.pid] * (process.pid not in known)
                        for one in (process, *process.children(recursive=True)):
                            _hold(one.pid, cores[known.index(process.pid) % len(cores)])
                            times = one.cpu_times()
                            spent_s[one.pid] = times.user + times.system

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        yield spent_s
    finally:
        over.set()
        holder.join()


def _hold(pid: int, core: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def _verdict(good: Any) -> str:
    return "ok" if good else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
