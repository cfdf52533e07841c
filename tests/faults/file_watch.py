"""Which files of a folder are opened or read by anybody: the kernel's own count (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

_ACCESS, _OPEN, _IS_FOLDER, _OVERFLOW = 0x1, 0x20, 0x40000000, 0x4000
_EVENT = struct.Struct("iIII")


class FileWatch:
    """Counts from entering to leaving the ``with`` block.

    ``opened`` has every opening of a file by its path, ``read`` every read call, as far as the kernel reports them one
    by one. Memory-mapped reads show as openings only.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.opened: Counter[str] = Counter()
        self.read: Counter[str] = Counter()

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        for folder in (self._folder, *(path for path in self._folder.rglob("*") if path.is_dir())):
            watch = libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _ACCESS | _OPEN)
            if watch < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
            self._folders[watch] = folder
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.take()
        os.close(self._descriptor)

    def take(self) -> None:
        """Take what the kernel has noted so far; its queue holds 16,384 events."""
        while True:
            try:
                data = os.read(self._descriptor, 1 << 20)
            except BlockingIOError:
                return
            position = 0
            while position < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size
                name = data[position : position + length].rstrip(b"\0").decode()
                position += length
                if mask & _OVERFLOW:
                    raise OverflowError("more file events than the kernel's queue holds; take() more often")
                if mask & _IS_FOLDER:
                    continue
                path = str(self._folders[watch] / name)
                self.opened[path] += bool(mask & _OPEN)
                self.read[path] += bool(mask & _ACCESS)
