"""One run of the extraction job in processes of its own, and ways to find and kill any of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parents[2]

# Many small units, so that there is much to interrupt.
SETTINGS = ("sampling=fps:4", "unit_frames=16", "encode.batch_frames=16", "encode.threads=1", "keep_all_below=0")

# What a process of each kind has in its command line; Ray writes the actor's class into it.
VICTIMS = {
    "driver": "",
    "decode actor": "MapBatches(DecodeActor)",
    "encode actor": "MapBatches(EncodeActor)",
    "commit actor": "MapBatches(CommitActor)",
    "raylet": "raylet/raylet",
    "gcs": "gcs/gcs_server",
    "decoding child": "longvu_model.video.child",
}
EXTRACT = (sys.executable, "-m", "jobs.extract")

MARK = "LONGVU_FAULTS_RUN"
"""A variable that all processes of one run inherit, by which they are found after their parents died."""
_POLL_S = 0.02


class Job:
    """A running command; use it as a context manager, which leaves no process behind.

    Args:
        words: settings, as on the command line.
        environment: variables beside those of this process.
        command: what to run instead of ``python -m jobs.extract``; the words are appended.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = EXTRACT,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = secrets.token_hex(8)
        name = f"run-{self._mark}"
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self.started_s = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.driver = subprocess.Popen(
                [*command, *words],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}) | {MARK: self._mark},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def exit_code(self) -> int | None:
        return self.driver.poll()

    @property
    def last_words(self) -> str:
        """The last line of stderr."""
        return (self.stderr.strip().splitlines() or [""])[-1]

    def processes(self, part: str = "") -> list[psutil.Process]:
        """Living processes of this run, children of a dead driver included, whose command line holds ``part``."""
        return marked(self._mark, part)

    def kill(self, victim: str, part: str | None = None) -> bool:
        """SIGKILL a process of one of :data:`VICTIMS`; False when there was none.

        Args:
            part: of its command line, where it is not the one given there.
        """
        if victim == "driver":
            running = self.driver.poll() is None
            self.driver.kill()
            return running
        for process in self.processes(part or VICTIMS[victim]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                return True
        return False

    def wait_until(self, reached: Callable[[], object], timeout_s: float = 300) -> bool:
        """Wait for something while the job runs; False when the job ended first.

        Raises:
            TimeoutError: neither came.
        """
        deadline_s = time.monotonic() + timeout_s
        while not reached():
            if self.driver.poll() is not None:
                return bool(reached())
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not reached in {timeout_s:g} s; stderr:\n{self.stderr[-4000:]}")
            time.sleep(_POLL_S)
        return True

    def wait(self, timeout_s: float = 300) -> int:
        """The job's exit code.

        Raises:
            TimeoutError: it did not end in time; what it said so far is in the message.
        """
        try:
            return self.driver.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout_s:g} s; stderr:\n{self.stderr[-4000:]}") from None

    def end(self) -> None:
        """Kill whatever of this run is still there."""
        end_marked(self._mark)
        self.driver.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.end()


def finish(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Job:
    """Run a job to its end, whatever that is; the process is gone, its output and exit code remain."""
    with Job(words, folder, environment) as job:
        job.wait()
    return job


def marked(mark: str, part: str = "") -> list[psutil.Process]:
    """Living processes that inherited this value of :data:`MARK` and whose command line holds ``part``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and part in " ".join(process.cmdline()):
                found.append(process)
    return found


def end_marked(mark: str) -> None:
    """Kill all of them."""
    while living := [process for process in marked(mark) if process.status() != psutil.STATUS_ZOMBIE]:
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(living, timeout=5)
