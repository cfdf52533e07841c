"""Watched media by what they are of: each is decoded and encoded once, however many ask for it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from pipelines.video_models.base import WatchedMedia
from pipelines.video_models.lru import ByteLRU


@dataclass(frozen=True)
class VisualCacheStats:
    """Look-ups so far that found something, that had to make it, and that waited for another to make it; and bytes."""

    hits: int
    misses: int
    joined: int
    held_bytes: int
    spilled_bytes: int


class VisualCache:
    """Least recently used first out; what falls out of the device's memory is held in the host's.

    Args:
        capacity_bytes: on the device.
        spill_bytes: in host memory.
        device: where media are used.
    """

    def __init__(self, capacity_bytes: int, spill_bytes: int = 0, device: torch.device | str = "cpu") -> None:
        self._media: ByteLRU[WatchedMedia] = ByteLRU(
            capacity_bytes,
            lambda media: media.nbytes,
            spill_bytes=spill_bytes,
            demote=lambda media: media.to("cpu"),
            promote=lambda media: media.to(device),
        )
        self._making: dict[str, Future[WatchedMedia]] = {}
        self._lock = threading.Lock()
        self._counts = {"hits": 0, "misses": 0, "joined": 0}

    def get(self, key: str) -> WatchedMedia | None:
        """The media under a key if they are there; nothing is made."""
        with self._lock:
            found = self._media.get(key)
            self._counts["hits"] += found is not None
        return found

    def get_or_watch(self, key: str, make: Callable[[], WatchedMedia]) -> WatchedMedia:
        """The media under a key; the first to ask makes them, whoever asks meanwhile waits.

        Args:
            key: digest of the content, the sampling rule and the model.
            make: e.g. ``lambda: model.watch(path, sampling)``.

        Raises:
            Exception: whatever ``make`` raised, to all who waited for it; the next to ask tries again.
        """
        with self._lock:
            found = self._media.get(key)
            if found is not None:
                self._counts["hits"] += 1
                return found
            pending = self._making.get(key)
            self._counts["misses" if pending is None else "joined"] += 1
            ours = Future[WatchedMedia]() if pending is None else None
            if ours is not None:
                self._making[key] = ours
        if pending is not None:
            return pending.result()
        assert ours is not None
        try:
            media = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            ours.set_exception(error)
            raise
        with self._lock:
            self._media.put(key, media)
            del self._making[key]
        ours.set_result(media)
        return media

    @property
    def stats(self) -> VisualCacheStats:
        """Counts and bytes so far."""
        held, spilled = self._media.held_bytes
        return VisualCacheStats(**self._counts, held_bytes=held, spilled_bytes=spilled)
