"""A Ray cluster of one node for a while, with token authentication, and jobs submitted to it as to a large one.

It starts with the first job, knows nothing of other clusters on this machine, and leaves no process behind: not when
its block ends, not after Ctrl-C, and not when the process that started it is killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.errors import JobStopped
from pipelines.lifeline import die_with_parent

_MARK = "LONGVU_LOCAL_CLUSTER"
"""A variable that all processes of one cluster inherit, by which they are found after their parents died."""
_OBJECT_STORE_BYTES = 512 << 20
_STARTS_WITHIN_S = 120.0
_STOPS_WITHIN_S = 10.0
CHECKOUT = Path(__file__).resolve().parents[1]
"""What jobs get as their working directory: the code beside this package."""
# Variables that would lead to a cluster of somebody else's.
_OTHERS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH")


class LocalCluster:
    """Use it as a context manager; the cluster itself starts when it is first needed.

    Args:
        log: file that gets what Ray says while it starts.
        num_cpus: logical CPUs of the node.
    """

    def __init__(self, log: Path, num_cpus: int | None = None) -> None:
        self._log, self._num_cpus = log, num_cpus or max(2, os.cpu_count() or 1)
        self._mark = secrets.token_hex(8)
        self._head: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self.address = ""
        """Where jobs are submitted to, once it has started."""
        self.environment = {name: value for name, value in os.environ.items() if name not in _OTHERS} | {
            _MARK: self._mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
            # Ray gives its workers 15, and a busy machine then gives them nothing.
            "RAY_worker_niceness": "0",
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the node; nothing happens if it runs.

        Raises:
            JobStopped: it does not come up.
        """
        if self._head is not None:
            return
        # A short name: sockets lie there, and their paths may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        gcs, dashboard, client, agent = free_ports(4)
        words = ["start", "--head", "--block", f"--port={gcs}", f"--temp-dir={self._folder}"]
        words += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        words += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"]
        words += [f"--num-cpus={self._num_cpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
        self.address = f"http://127.0.0.1:{dashboard}"
        # For Ray's own actors, which otherwise look for a cluster on this machine and may find somebody else's too.
        self.environment["RAY_API_SERVER_ADDRESS"] = self.address
        with self._log.open("wb") as log:
            self._head = self._popen(words, stdout=log, stderr=subprocess.STDOUT)
        deadline_s = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if self._head.poll() is not None or time.monotonic() > deadline_s:
                raise JobStopped(f"Ray did not start; it says why in {self._log}: {_last_line(self._log)}")
            time.sleep(0.2)

    def submit(self, module: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Submit ``python -m module words``; the returned process prints what the job does, and ends when it does."""
        self.start()
        submit = ["job", "submit", "--address", self.address, "--working-dir", str(CHECKOUT), "--"]
        command = [*submit, sys.executable, "-m", module, *words]
        return self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def stop_job(self, submission_id: str) -> None:
        """Ask a job to end, and wait until it has."""
        self._popen(
            ["job", "stop", "--address", self.address, submission_id],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).wait()

    def stop(self) -> None:
        """End everything that was started; nothing of it lives afterwards."""
        if self._head is None:
            return
        with _signals_wait():
            self._head.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._head.wait(_STOPS_WITHIN_S)
            while left := list(_marked(self._mark)):
                for process_id in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process_id, signal.SIGKILL)
                time.sleep(0.05)
            self._head.wait()
            self._head = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def _popen(self, words: Sequence[str], **options: int | object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command; it ends the cluster in its own order
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            **options,  # type: ignore[call-overload]
        )

    def _answers(self) -> bool:
        request = urllib.request.Request(
            f"{self.address}/api/version", headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A second Ctrl-C must not leave half of the cluster behind."""
    try:
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
    except ValueError:  # only the main thread may
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _marked(mark: str) -> Iterator[int]:
    """Ids of living processes that inherited the mark."""
    wanted = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def _last_line(path: Path) -> str:
    return next((line for line in reversed(path.read_text(errors="replace").splitlines()) if line.strip()), "nothing")
