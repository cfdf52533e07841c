"""Shows and runs the stages of a story: what is being done, the command, what it prints, how long it took.

A stage is finished when a record of exactly this command is in the run folder and what it made is still there.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.errors import JobStopped
from pipelines.lifeline import die_with_parent
from pipelines.local_cluster import CHECKOUT, LocalCluster
from pipelines.stage_records import StageRecord, read_stage

_QUIET_S = 10.0
_LAST_LINES = 15
_READY_WITHIN_S = 180.0
# What Ray says about its own affairs, and what libraries say in its processes, beside what the job prints.
_RAYS_OWN = re.compile(
    r"\[?\d{4}-\d\d-\d\d [\d:,]+\s+(INFO|SUCC|WARN|ERR|[IWE] )|INFO \d{4}-|Running entrypoint for job"
    r"|\(raylet\)|\(.*\bpid=\d+"
)
_WORKERS_STEP = re.compile(r"\(\w+ pid=\d+[^)]*\) ((?:step|continuing|checkpoint) .*)")
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class StageFailed(JobStopped):
    """A stage ended with an error; run again, the story goes on there."""

    exit_code = 1


class Narrator:
    """Runs stages one after the other.

    Args:
        folder: of the story: records, logs and everything that stages make.
        cluster: where jobs are submitted to; it starts with the first of them.
    """

    def __init__(self, folder: Path, cluster: LocalCluster) -> None:
        self._folder, self._cluster = folder, cluster

    def say(self, line: str) -> None:
        print(f"  {line}", flush=True)

    def here(
        self,
        name: str,
        about: str,
        command: str,
        words: Sequence[str],
        *,
        paths: Sequence[Path],
        after: Sequence[str] = (),
    ) -> None:
        """A `longvu` command of this machine, in a process of its own.

        Args:
            after: stages whose end it must have seen.
        """
        shown = ["longvu", command, *words]
        if self._done(name, shown) and self.finished(name, after):
            return self.skip(name)
        self._begin(name, about, shown)
        started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        try:
            code = self._show(name, process, started_s)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code:
            raise self._failed(name, shown, code)
        self._record(name, about, shown, started_s, {}, paths)
        return None

    def job(
        self,
        name: str,
        about: str,
        module: str,
        words: Sequence[str],
        *,
        finds: Mapping[str, str] | None = None,
        paths: Sequence[Path] = (),
    ) -> Mapping[str, str]:
        """A job on the cluster; what its output told.

        Args:
            finds: pattern of a line by name; the first group is a path that the job made, and what is returned.
        """
        shown = ["python", "-m", module, *words]
        if there := self._done(name, shown):
            self.skip(name)
            return there.found
        self._cluster.start()
        self._begin(name, about, ["ray", "job", "submit", "--working-dir", ".", "--", *shown])
        started_s = time.monotonic()
        process = self._cluster.submit(module, words)
        code = self._show(name, process, started_s)
        printed = self._printed(name)
        found = {key: re.findall(pattern, printed, re.MULTILINE) for key, pattern in (finds or {}).items()}
        if code or not all(found.values()):
            raise self._failed(name, shown, code)
        told = {key: values[-1].removeprefix("file://") for key, values in found.items()}
        self._record(name, about, shown, started_s, told, [*paths, *map(Path, told.values())])
        return told

    @contextlib.contextmanager
    def serving(self, name: str, about: str, module: str, words: Sequence[str]) -> Iterator[None]:
        """A stage whose job runs while the block does, and is told to end afterwards."""
        shown = ["python", "-m", module, *words]
        self._cluster.start()
        self._begin(name, about, ["ray", "job", "submit", "--working-dir", ".", "--", *shown])
        started_s = time.monotonic()
        process = self._cluster.submit(module, words)
        ready = threading.Event()
        reader = threading.Thread(target=self._show, args=(name, process, started_s, ready), daemon=True)
        reader.start()
        while not ready.wait(0.2):
            if process.poll() is not None or time.monotonic() - started_s > _READY_WITHIN_S:
                raise self._failed(name, shown, process.poll() or 1)
        yield
        self._cluster.stop_job(self._submission(name))
        reader.join()
        self._record(name, about, shown, started_s, {}, [self._folder / "conversation.json"])

    def finished(self, name: str, after: Sequence[str] = ()) -> bool:
        """Whether the stage ended after those others, whatever its command was, and what it made is there."""
        there = read_stage(self._folder, name)
        if there is None or not there.holds:
            return False
        others = [read_stage(self._folder, one) for one in after]
        return all(other is None or other.ended_s <= there.ended_s for other in others)

    def found(self, name: str, what: str) -> str:
        """What a finished stage's output told."""
        record = read_stage(self._folder, name)
        assert record is not None, name
        return record.found[what]

    def skip(self, name: str) -> None:
        print(f"== {name}: finished before", flush=True)

    def _done(self, name: str, shown: Sequence[str]) -> StageRecord | None:
        there = read_stage(self._folder, name)
        return there if there and list(there.command) == list(shown) and there.holds else None

    def _begin(self, name: str, about: str, shown: Sequence[str]) -> None:
        print(f"\n== {name}: {about}\n$ {shlex.join(shown)}", flush=True)

    def _show(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        started_s: float,
        ready: threading.Event | None = None,
    ) -> int:
        """Repeat what a process prints, all of it into the log; a sign of life where it prints nothing."""
        assert process.stdout is not None
        ended, spoke_s = threading.Event(), [time.monotonic()]

        def live() -> None:
            while not ended.wait(1.0):
                if time.monotonic() - spoke_s[0] > _QUIET_S:
                    spoke_s[0] = time.monotonic()
                    self.say(f"... {spoke_s[0] - started_s:.0f} s")

        if ready is None:
            threading.Thread(target=live, daemon=True).start()
        try:
            with self._log(name).open("w") as log:
                for line in process.stdout:
                    text = _WORKERS_STEP.sub(r"\1", _COLOURS.sub("", line.decode(errors="replace")).rstrip())
                    log.write(text + "\n")
                    log.flush()
                    if text and not _RAYS_OWN.match(text):
                        spoke_s[0] = time.monotonic()
                        self.say(text)
                    if ready is not None and text.startswith("ready: "):
                        ready.set()
        finally:
            ended.set()
        return process.wait()

    def _record(
        self,
        name: str,
        about: str,
        shown: Sequence[str],
        started_s: float,
        found: Mapping[str, str],
        paths: Sequence[Path],
    ) -> None:
        seconds = time.monotonic() - started_s
        made = [str(path) for path in paths]
        StageRecord(name, about, list(shown), seconds, time.time(), dict(found), made).write(self._folder)
        self.say(f"done in {seconds:.0f} s")

    def _failed(self, name: str, shown: Sequence[str], code: int) -> StageFailed:
        lines = [line for line in self._printed(name).splitlines() if line and not _RAYS_OWN.match(line)]
        last = "\n".join(f"  | {line}" for line in lines[-_LAST_LINES:])
        return StageFailed(
            f"stage '{name}' ended with exit code {code}. Its last lines (all: {self._log(name)}):\n{last}\n"
            f"The same command goes on here once the cause is mended; this stage alone, on a Ray of its own:\n"
            f"  {shlex.join(shown)}"
        )

    def _printed(self, name: str) -> str:
        return self._log(name).read_text() if self._log(name).exists() else ""

    def _submission(self, name: str) -> str:
        found = re.search(r"raysubmit_\w+", self._printed(name))
        assert found is not None
        return found[0]

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / f"{name.replace(' ', '-')}.log"
