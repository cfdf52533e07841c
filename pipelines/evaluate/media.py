"""The files behind a question: hashed once, and refused where they are longer than asked for."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from longvu_model.video import probe
from pipelines import storage
from pipelines.evaluate.answerers import Refused
from pipelines.store import FeatureStore


class FileDigests:
    """SHA-256 of files by name and version; of files that a feature store knows without reading them. Thread-safe."""

    def __init__(self, store: str | None = None):
        self._known: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        if store is not None:
            table = FeatureStore.open(store).videos(["video_id"])
            columns = (table[name].to_pylist() for name in ("source", "version", "video_id"))
            self._known = {(source, version): found for source, version, found in zip(*columns, strict=True) if found}

    def __getitem__(self, path: Path) -> str:
        uri = storage.resolve(path)
        identity = uri, storage.stat(uri).version
        with self._lock, contextlib.suppress(KeyError):
            return self._known[identity]
        digest = storage.sha256(uri)
        with self._lock:
            self._known[identity] = digest
        return digest


def check_duration(path: Path, start_s: float | None, end_s: float | None, most_s: float | None) -> None:
    """Refuse what would show more seconds than ``most_s``.

    Raises:
        Refused: TooLong.
        VideoError: the file cannot be opened.
    """
    if most_s is None:
        return
    whole_s = probe(path).duration_s
    if whole_s is None:
        return
    shown_s = min(whole_s, end_s if end_s is not None else whole_s) - (start_s or 0.0)
    if shown_s > most_s:
        raise Refused("TooLong", f"{path}: {shown_s:.0f} s are shown, allowed are media.max_duration_s={most_s:g}")
