"""Bring a source to this machine: downloaded where it must be, hashed once, whatever goes wrong as a named error."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from longvu_model.video import Corrupt, Forbidden, Missing, NotAVideo
from pipelines import storage
from pipelines.extract.plan import Member
from pipelines.retry import retrying


@dataclass(frozen=True)
class Fetched:
    """A source on this machine; ``video_id`` is the SHA-256 of its bytes."""

    path: Path
    video_id: str


class Fetcher:
    """Fetches sources one after the other, and keeps the last one: the next chunk of a long video is often of it."""

    def __init__(self, scratch: str | None, attempts: int):
        self._scratch, self._attempts = scratch, attempts
        self._held: tuple[tuple[str, str], Fetched] | None = None
        self._copy = contextlib.ExitStack()

    def fetch(self, member: Member) -> Fetched:
        """The member's source, valid until the next call.

        Raises:
            VideoError: Missing, Forbidden, NotAVideo, or Corrupt for a file that its disk cannot read.
            StorageError: the storage does not answer, or there is no room for the download.
        """
        if self._held is None or self._held[0] != member.identity:
            self.close()
            self._held = member.identity, self._fetch(member)
        return self._held[1]

    def close(self) -> None:
        """Delete what was downloaded."""
        self._held = None
        self._copy.close()

    def _fetch(self, member: Member) -> Fetched:
        name = storage.shown(member.source)
        try:
            return retrying(lambda: self._get(member), self._attempts)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{name}: no such file; it was there, or listed, when the run began") from None
        except PermissionError:
            raise Forbidden(f"{name}: not allowed to read it; check its permissions") from None
        except IsADirectoryError:
            raise NotAVideo(f"{name}: is a folder") from None
        except OSError as error:
            if error.errno != errno.EIO or not storage.is_local(member.source):
                raise
            raise Corrupt(f"{name}: its disk cannot read it ({error.strerror})") from error

    def _get(self, member: Member) -> Fetched:
        found = storage.stat(member.source)
        if found.version != member.version != storage.MISSING:
            name = storage.shown(member.source)
            raise Missing(f"{name}: was replaced after this run had planned it; the next run takes the new one")
        if storage.is_local(member.source) and not stat.S_ISREG(os.stat(storage.local_path(member.source)).st_mode):
            raise NotAVideo(f"{storage.shown(member.source)}: is no regular file")
        with contextlib.ExitStack() as copy:
            path = copy.enter_context(storage.local_copy(member.source, self._scratch))
            fetched = Fetched(path, storage.sha256(storage.resolve(path)))
            self._copy = copy.pop_all()
        return fetched
