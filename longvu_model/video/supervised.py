"""Decoding in a supervised child process: a deadline, a memory limit, and no crash that reaches the caller.

A hang or a crash inside a native decoder cannot be caught from Python, so files from strangers are decoded in a child
that is killed when it overruns. Children are plain processes (no fork of the caller, no Ray), start in about 0.3 s and
are used again for the next video. Blocks come through a pipe, which also holds the child back when the caller is slow.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longvu_model.video.child import LENGTH
from longvu_model.video.container import MAX_PIXELS, Source, binary_file, source_name
from longvu_model.video.decode import Backend
from longvu_model.video.errors import VIDEO_ERRORS, Corrupt, Timeout, VideoError
from longvu_model.video.frames import DecodeSummary, FrameBlock
from longvu_model.video.sampling import FrameSampling

MEMORY_BYTES = 4 << 30
"""Default limit on the address space of a child."""
MIN_MEMORY_BYTES = 512 << 20
_PIPE_BYTES = 1 << 20
_LOG_BYTES = 4096
_MAX_HEADER_BYTES = 16 << 20
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")
_REFUSALS: dict[str, type[Exception]] = {"ImportError": ImportError, "ModuleNotFoundError": ImportError}


class SupervisedStream:
    """Blocks from a child; iterate once. As ``FrameStream``: ``indices`` at once, ``summary`` after the last block."""

    def __init__(self, child: _Child, name: str, deadline_s: float) -> None:
        self._child: _Child | None = child
        self._name, self._deadline_s, self._left_s = name, deadline_s, deadline_s
        self._summary: DecodeSummary | None = None
        try:
            _, (indices,) = self._next("plan")
        except BaseException:
            self.close()
            raise
        self.indices: NDArray[np.int64] = indices.view(np.int64)

    @property
    def summary(self) -> DecodeSummary:
        """The facts about the video. Raises ``RuntimeError`` before the last block has been taken."""
        if self._summary is None:
            raise RuntimeError("the summary of a video is complete only after its last block; iterate to the end first")
        return self._summary

    def __iter__(self) -> Iterator[FrameBlock]:
        try:
            while True:
                header, arrays = self._next("block", "done")
                if header["kind"] == "done":
                    self._summary = DecodeSummary(**header["summary"])
                    assert self._child is not None
                    _give_back(self._child)
                    self._child = None
                    return
                indices, pts_s, *pictures = arrays
                shaped = [array.reshape(shape) for array, shape in zip(pictures, header["shapes"], strict=True)]
                frames, *squares = shaped
                yield FrameBlock(frames, indices.view(np.int64), pts_s.view(np.float64), squares=tuple(squares))
        finally:
            self.close()

    def close(self) -> None:
        """Stop decoding. A child in the middle of a video is killed; called by itself when iteration ends."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __del__(self) -> None:
        self.close()

    def _next(self, *kinds: str) -> tuple[dict[str, Any], list[NDArray[np.uint8]]]:
        """The next message, of one of ``kinds``; failures that the child reports are raised."""
        if self._child is None:
            raise RuntimeError("this video was closed before its last block")
        start = time.monotonic()
        try:
            header, arrays = self._child.receive(start + self._left_s)
        except TimeoutError:
            raise self._failure(
                Timeout, f"decoding did not finish within {self._deadline_s:g} s; raise deadline_s or look at the file"
            ) from None
        except EOFError:
            raise self._failure(Corrupt, *self._child.death()) from None
        # Only waiting for the child counts: a caller that is slow to take blocks does not use up the deadline.
        self._left_s -= time.monotonic() - start
        if header["kind"] == "failed":
            error = VIDEO_ERRORS[header["code"]](header["message"])
            error.log_tail = self._child.log_tail()
            error.out_of_memory = header.get("out_of_memory", False)
            self._release()
            raise error
        if header["kind"] == "refused":
            self._release()
            raise _REFUSALS.get(header["error"], ValueError)(header["message"])
        assert header["kind"] in kinds, header
        return header, arrays

    def _failure(self, kind: type[VideoError], what: str, out_of_memory: bool = False) -> VideoError:
        assert self._child is not None
        log = self._child.log_tail()
        error = kind(f"{self._name}: {what}" + (f"; its last words: {log.splitlines()[-1][:200]}" if log else ""))
        error.log_tail = log
        error.out_of_memory = out_of_memory
        return error

    def _release(self) -> None:
        assert self._child is not None
        _give_back(self._child)
        self._child = None


def supervised_blocks(
    source: Source,
    sampling: FrameSampling | str | None = None,
    *,
    deadline_s: float = 600.0,
    max_pixels: int = MAX_PIXELS,
    block_frames: int = 16,
    backend: Backend = "pyav",
    threads: int = 1,
    memory_bytes: int = MEMORY_BYTES,
    squares: Sequence[tuple[int, tuple[int, ...] | None]] = (),
    whole: bool = True,
) -> SupervisedStream:
    """As ``iter_frame_blocks``, in a child process.

    Args:
        source: local path, bytes, or file object; the latter two are sent to the child whole.
        deadline_s: seconds that the caller may wait for the child, over all blocks of this video.
        memory_bytes: limit on the child's address space.
        squares: sides in pixels and colours of padding (None: cropped); the child also sends each frame as these
            squares (``tower_pixels.square``), which are far smaller than what they are made from.
        whole: whether the frames themselves are sent.

    Raises:
        VideoError: on opening or while iterating. ``Timeout``: the deadline passed. ``Corrupt``: the child died; the
            message names the signal, ``log_tail`` has its last words. ``TooLarge``: it ran into a limit.
        ValueError: bad sampling rule, backend, block size or source.
    """
    if not deadline_s > 0:
        raise ValueError(f"deadline_s={deadline_s} must be above 0 seconds")
    if memory_bytes < MIN_MEMORY_BYTES:
        raise ValueError(f"memory_bytes={memory_bytes} must be at least {MIN_MEMORY_BYTES}, room for the child itself")
    name = source_name(source)
    if not isinstance(source, str | os.PathLike | bytes):
        with binary_file(source) as file:
            source = file.read()
    rule = FrameSampling() if sampling is None else FrameSampling.parse(sampling)
    job = {
        "name": name,
        "source": source,
        "sampling": rule,
        "max_pixels": max_pixels,
        "block_frames": block_frames,
        "backend": backend,
        "threads": threads,
        "squares": list(squares),
        "whole": whole,
    }
    child = _take(memory_bytes)
    child.send(pickle.dumps(job))
    return SupervisedStream(child, name, deadline_s)


class _Child:
    """A running child and the ends of its pipes."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.log = b""
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",  # each BLAS thread would reserve address space
            # Frame buffers come and go all the time; giving their pages back each time costs 3 % at 720p.
            "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "longvu_model.video.child", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._input, self._answers, self._errors = (
            self._process.stdin.fileno(),
            self._process.stdout.fileno(),
            self._process.stderr.fileno(),
        )
        with contextlib.suppress(OSError):  # above the system's limit for pipes
            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._errors, False)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._poll.register(self._errors, select.POLLIN)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        """Hand over a job. A child that dies of it is noticed when its answer is awaited."""
        self.log = b""
        view = memoryview(LENGTH.pack(len(message)) + message)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._input, view) :]

    def receive(self, until: float) -> tuple[dict[str, Any], list[NDArray[np.uint8]]]:
        """The next message. Raises ``TimeoutError`` after the time ``until``, ``EOFError`` if the child ended."""
        (length,) = LENGTH.unpack(self._read(LENGTH.size, until).tobytes())
        if length > _MAX_HEADER_BYTES:
            raise EOFError("not a message")
        header = json.loads(self._read(length, until).tobytes())
        return header, [self._read(size, until) for size in header["sizes"]]

    def _read(self, size: int, until: float) -> NDArray[np.uint8]:
        data = np.empty(size, np.uint8)
        view = data.data
        while view:
            ready = {fd for fd, _ in self._poll.poll(max(0.0, until - time.monotonic()) * 1000)}
            if self._errors in ready and not self._read_log():
                self._poll.unregister(self._errors)
            if self._answers in ready:
                count = os.readv(self._answers, [view])
                if not count:
                    raise EOFError("the child closed its end")
                view = view[count:]
            elif not ready:
                raise TimeoutError
        return data

    def _read_log(self) -> bool:
        """Take what there is of the child's log, without waiting; False at its end."""
        try:
            text = os.read(self._errors, 65536)
        except BlockingIOError:
            return True
        self.log = (self.log + text)[-_LOG_BYTES:]
        return bool(text)

    def log_tail(self) -> str:
        """What the child has logged during this job, its last 4 KiB, without FFmpeg's addresses in memory."""
        self._read_log()
        return _ADDRESS.sub("", self.log.decode(errors="replace")).strip()

    def death(self) -> tuple[str, bool]:
        """How the child ended, after its answers stopped, and whether want of memory did it; reads the rest of its log.

        Decoders do not send themselves SIGKILL: it comes from outside, on Linux nearly always for want of memory.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.poll()
        if code is None:
            return "the decoder stopped answering", False
        self._read_log()
        if code < 0:
            killed = -code == signal.SIGKILL
            hint = ", perhaps for want of memory" if killed else ""
            return f"the decoder died of {signal.Signals(-code).name}{hint}", killed
        return f"the decoder ended with status {code}", False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


# Children without work, at most one: a caller that decodes several videos at once starts more, and the surplus ends.
_idle: list[_Child] = []
_lock = threading.Lock()


def _take(memory_bytes: int) -> _Child:
    with _lock:
        child = _idle.pop() if _idle else None
    if child is not None:
        if child.alive and child.memory_bytes == memory_bytes:
            return child
        child.kill()
    return _Child(memory_bytes)


def _give_back(child: _Child) -> None:
    with _lock:
        if not _idle:
            _idle.append(child)
            return
    child.kill()


def close_idle_children() -> None:
    """End the child that waits for work, if any. Runs by itself when Python exits."""
    with _lock:
        children, _idle[:] = list(_idle), []
    for child in children:
        child.kill()


atexit.register(close_idle_children)
# A forked copy of this process must not talk to, or reap, children that are not its own.
os.register_at_fork(after_in_child=_idle.clear)
