"""Media that requests name, as local files that are safe to use: fetched under a policy, then checked by decoding.

    guard = MediaGuard(policy, folder)
    async with guard.fetch(url, "video") as file:
        probe = await asyncio.to_thread(check_media, file.path, policy, file.kind)

What may be named is in :mod:`.guard`; how addresses are judged, files fetched and paths followed in the modules beside
it. Whatever a server or a URL calls a file, its bytes decide what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from longvu_model.video import FrameSampling, VideoError
from longvu_model.video import errors as video_errors
from longvu_model.video.pictures import is_picture
from longvu_model.video.sampling import sample_indices
from longvu_model.video.supervised import supervised_blocks
from pipelines.serve.guard import MediaPolicy, MediaRefused
from pipelines.serve.guard_addresses import Resolve, parse_web_address, shown_url
from pipelines.serve.guard_fetch import download, too_large
from pipelines.serve.guard_files import decode_data_url, open_under_roots, path_of_url

__all__ = [
    "FetchedMedia",
    "MediaGuard",
    "MediaPolicy",
    "MediaRefused",
    "Probe",
    "check_media",
    "check_sampling",
    "refusal_of",
    "shown_url",
]

Kind = Literal["video", "image"]

_LEFT_BEHIND = "fetched-"
_LEFT_BEHIND_S = 3600.0
"""Files of a process that was killed are older than this when they are removed."""
_KNOWN_DIGESTS = 4096
_READ_BYTES = 1 << 20
# One frame of any video, without counting frames that only decoding can count.
_FIRST_FRAME = FrameSampling(fps=1e-9)

_STATUS: dict[type[VideoError], int] = {
    video_errors.NotAVideo: 415,
    video_errors.Unsupported: 415,
    video_errors.Truncated: 422,
    video_errors.Corrupt: 422,
    video_errors.Timeout: 413,
    video_errors.TooLarge: 413,
    video_errors.Missing: 404,
    video_errors.Forbidden: 404,
}


@dataclass(frozen=True)
class FetchedMedia:
    """A medium on this machine, valid while its fetch is open.

    Attributes:
        path: a file of the guard's folder; for a file:// URL a descriptor of this process under ``/proc``, which is
            what was judged whatever happens to the path that led to it. Resolving links in it would undo that.
        digest: SHA-256 of its bytes, 64 hex digits.
        kind: what the request called it.
        num_bytes: its size.
        name: for logs and messages, without secrets.
    """

    path: Path
    digest: str
    kind: Kind
    num_bytes: int
    name: str


@dataclass(frozen=True)
class Probe:
    """What a checked medium is. ``num_frames`` and ``fps`` are those that frame sampling counts with."""

    kind: Kind
    codec: str
    width: int
    height: int
    num_frames: int
    fps: float
    duration_s: float


class MediaGuard:
    """Fetches media for requests; one per process."""

    def __init__(self, policy: MediaPolicy, folder: Path, resolve: Resolve | None = None) -> None:
        """
        Args:
            folder: where fetched media lie while they are used; made if missing.
            resolve: names to addresses; the system's resolver if absent.
        """
        self.policy = policy
        self._folder = folder
        self._resolve = resolve or self._system_resolve
        # Of its own: names that never resolve must not keep others from being read or written.
        self._resolver_threads = ThreadPoolExecutor(8, thread_name_prefix="resolve")
        self._fetches = asyncio.Semaphore(policy.max_fetches)
        self._digests: dict[tuple[int, ...], str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(folder)

    @contextlib.asynccontextmanager
    async def fetch(self, url: str, kind: Kind = "video", param: str | None = None) -> AsyncIterator[FetchedMedia]:
        """The medium that an http(s)://, data: or file:// URL names.

        Args:
            param: the field of the request that holds the URL; refusals carry it.

        Raises:
            MediaRefused: not allowed, not there, too large, too slow, or an image_url that is no picture.
        """
        try:
            async with contextlib.AsyncExitStack() as stack:
                yield await self._fetched(url, kind, stack)
        except MediaRefused as refusal:
            refusal.param = refusal.param or param
            raise

    async def _fetched(self, url: str, kind: Kind, stack: contextlib.AsyncExitStack) -> FetchedMedia:
        scheme = url[:5].lower()
        if scheme == "file:":
            file = await asyncio.to_thread(self._local, url, kind, stack)
        else:
            try:
                async with asyncio.timeout(self.policy.fetch_timeout_s), self._fetches:
                    file = await self._remote(url, kind, stack)
            except TimeoutError:
                raise MediaRefused(
                    f"{shown_url(url)} could not be fetched within {self.policy.fetch_timeout_s:g} s",
                    "use a faster or smaller file, or upload to /v1/videos",
                    424,
                ) from None
        if not file.num_bytes:
            raise MediaRefused(f"{file.name} is empty", "give a file that holds a video or picture", 415)
        if kind == "image" and not is_picture(file.path):
            raise MediaRefused(
                f"{file.name} is no JPEG, PNG, WebP, BMP or TIFF picture", "send videos and GIFs as video_url", 415
            )
        return file

    def _local(self, url: str, kind: Kind, stack: contextlib.AsyncExitStack) -> FetchedMedia:
        path = path_of_url(url)
        descriptor = open_under_roots(path, self.policy)
        stack.callback(os.close, descriptor)
        if os.fstat(descriptor).st_size > self.policy.max_bytes:
            raise too_large("this file", self.policy)
        digest = self._digest(descriptor)
        opened = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        return FetchedMedia(opened, digest, kind, os.fstat(descriptor).st_size, Path(path).name)

    async def _remote(self, url: str, kind: Kind, stack: contextlib.AsyncExitStack) -> FetchedMedia:
        scratch_file = tempfile.NamedTemporaryFile(dir=self._folder, prefix=_LEFT_BEHIND)  # noqa: SIM115 - stacked
        file = stack.enter_context(scratch_file)
        scratch = _Scratch(file)
        if url[:5].lower() == "data:":
            await asyncio.to_thread(decode_data_url, url, self.policy, scratch.add)
        else:
            await download(parse_web_address(url), self.policy, self._resolve, scratch.add)
        file.flush()
        return FetchedMedia(Path(file.name), scratch.sha256.hexdigest(), kind, file.tell(), shown_url(url))

    async def _system_resolve(self, host: str, port: int) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            return list(dict.fromkeys(str(where[0]) for *_, where in found))

        return await asyncio.get_running_loop().run_in_executor(self._resolver_threads, look_up)

    def _digest(self, descriptor: int) -> str:
        """SHA-256 of an open file, remembered while the file stays as it is."""
        before = _identity(descriptor)
        if before in self._digests:
            return self._digests[before]
        sha256 = hashlib.sha256()
        offset = 0
        while chunk := os.pread(descriptor, _READ_BYTES, offset):
            sha256.update(chunk)
            offset += len(chunk)
        if _identity(descriptor) != before:
            raise MediaRefused("this file is being written to", "wait until it is complete", 409)
        while len(self._digests) >= _KNOWN_DIGESTS:
            self._digests.pop(next(iter(self._digests)), None)
        self._digests[before] = sha256.hexdigest()
        return self._digests[before]


class _Scratch:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)


def _identity(descriptor: int) -> tuple[int, ...]:
    facts = os.fstat(descriptor)
    # The time of change cannot be set back, unlike that of modification.
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _remove_left_behind(folder: Path) -> None:
    for path in folder.glob(f"{_LEFT_BEHIND}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFT_BEHIND_S:
                path.unlink()


def check_media(path: Path, policy: MediaPolicy, kind: Kind = "video") -> Probe:
    """Look at a file in the supervised child: every packet is read, the first frame decoded.

    Raises:
        MediaRefused: not a medium of that kind, damaged, or beyond a cap of the policy.
    """
    try:
        if kind == "image" and not is_picture(path):
            raise MediaRefused("the file is no JPEG, PNG, WebP, BMP or TIFF picture", "send it as a video", 415)
        stream = supervised_blocks(
            path,
            _FIRST_FRAME,
            deadline_s=policy.decode_timeout_s,
            max_pixels=policy.max_pixels,
            memory_bytes=policy.decode_memory_bytes,
            whole=False,
        )
        for _ in stream:
            pass
    except VideoError as error:
        raise refusal_of(error, path) from error
    facts = stream.summary
    if facts.num_frames > policy.max_frames:
        raise MediaRefused(
            f"a video of {facts.num_frames} frames, allowed are {policy.max_frames}", "send a part of it", 413
        )
    if not facts.duration_s <= policy.max_duration_s:
        raise MediaRefused(
            f"a video of {facts.duration_s:.0f} s, allowed are {policy.max_duration_s:g}", "send a part of it", 413
        )
    return Probe(kind, facts.codec, facts.width, facts.height, facts.num_frames, facts.fps, facts.duration_s)


def refusal_of(error: VideoError, path: Path) -> MediaRefused:
    """The refusal that a failure to decode a request's medium is, without the path."""
    what = error.message.removeprefix(f"{str(path)!r}: ").replace(str(path), "it")
    told = f"this file {what}" if what.startswith(("is ", "has ", "was ", "begins ")) else f"this file: {what}"
    return MediaRefused(told, "send another one", _STATUS[type(error)])


def check_sampling(probe: Probe, sampling: FrameSampling, policy: MediaPolicy) -> int:
    """How many frames a rule takes from a medium.

    Raises:
        MediaRefused: more than ``policy.max_sampled_frames``, or the rule does not fit the medium.
    """
    try:
        count = len(sample_indices(probe.num_frames, probe.fps, sampling))
    except ValueError as error:
        raise MediaRefused(str(error), "ask for frames that the video has", 400) from None
    if count > policy.max_sampled_frames:
        raise MediaRefused(
            f"{count} frames sampled from this video, allowed are {policy.max_sampled_frames}",
            "lower fps or num_frames in media_io_kwargs.video",
            413,
        )
    return count
