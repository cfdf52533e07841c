"""Where the media of samples are: in the feature store, or as files to be decoded when they are needed.

A row's path is relative to a root and not always right: parts of published sets were saved under another extension or
one folder up. The same few variants are tried in a fixed order, and what matched is counted. The store is asked first,
by URI; a file that it does not know by URI may be looked for by content.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipelines import storage
from pipelines.store import FeatureStore
from pipelines.store.schema import FAILED
from pipelines.train.config import Join
from pipelines.train.samples import Kind, MediaRef, Repair, Sample, Unusable

_EXTENSIONS: dict[Kind, tuple[str, ...]] = {
    "image": (".jpg", ".png", ".gif", ".jpeg", ".webp"),
    "video": (".mp4", ".mkv", ".webm", ".avi", ".mov", ".MP4", ".gif", ".npy"),
}
_FOLDERS = ("gifs", "videos", "train_val")
_SWAPPED = (("VG_100K/", "VG_100K_2/"), ("VG_100K_2/", "VG_100K/"))


@dataclass(frozen=True)
class StoredVideo:
    """What the store's index says of one source."""

    video_id: str
    status: str
    error: str | None
    message: str | None


class MediaIndex:
    """Looks media up.

    Args:
        store: features of media, if there are any.
        join: ``source`` finds a medium in the store by its URI alone; ``content`` also by the SHA-256 of its file,
            which reads files that moved since they were extracted.
    """

    def __init__(self, store: FeatureStore | None = None, join: Join = "source") -> None:
        self._join = join
        self._hash = functools.lru_cache(None)(storage.sha256)
        self._by_source: dict[str, StoredVideo] = {}
        self._by_content: dict[str, StoredVideo] = {}
        columns = ["video_id", "source", "status", "error", "message"]
        for row in [] if store is None else store.videos(columns).select(columns).to_pylist():
            stored = StoredVideo(row["video_id"], row["status"], row["error"], row["message"])
            # of several versions of a source the one that did not fail
            if row["source"] not in self._by_source or self._by_source[row["source"]].status == FAILED:
                self._by_source[row["source"]] = stored
            if stored.status != FAILED:
                self._by_content[row["video_id"]] = stored

    def located(self, sample: Sample, root: str) -> Sample:
        """The sample with all its media looked up.

        Raises:
            Unusable: one of them is not there.
        """
        found = [self.locate(medium, root) for medium in sample.media]
        repairs = tuple(repair for _, repair in found if repair is not None)
        return replace(sample, media=tuple(medium for medium, _ in found), repairs=sample.repairs + repairs)

    def locate(self, medium: MediaRef, root: str) -> tuple[MediaRef, Repair | None]:
        """The medium with its URI and, if the store has it, its video id; and what had to be guessed.

        Raises:
            Unusable: the path is not allowed, nothing lies there, or the store has it as failed.
        """
        for variant, repair in _variants(medium.path, medium.kind):
            uri = storage.join(root, variant)
            stored = self._by_source.get(uri)
            if stored is None and not self._exists(uri, root):
                continue
            if stored is None and self._join == "content" and self._by_content and not self._is_folder(uri, root):
                stored = self._by_content.get(self._hash(uri))
            if stored is not None and stored.status == FAILED:
                raise Unusable(str(stored.error), str(stored.message))
            return replace(medium, uri=uri, video_id=stored.video_id if stored else None), repair
        raise Unusable("Missing", f"{storage.shown(storage.join(root, medium.path))}: no such {medium.kind}")

    def _exists(self, uri: str, root: str) -> bool:
        if storage.is_local(uri):
            return storage.local_path(uri).exists()
        files, folders = self._listing(root)
        return uri in files or uri in folders

    def _is_folder(self, uri: str, root: str) -> bool:
        return storage.local_path(uri).is_dir() if storage.is_local(uri) else uri in self._listing(root)[1]

    @functools.cache  # noqa: B019 - one index per run
    def _listing(self, root: str) -> tuple[frozenset[str], frozenset[str]]:
        """Objects under a prefix of S3, and the prefixes they lie in: one listing instead of a request per medium."""
        files = frozenset(item.uri for item in storage.listing(root, recursive=True))
        return files, frozenset(posixpath.dirname(uri) for uri in files)


def _variants(path: str, kind: Kind) -> Iterator[tuple[str, Repair | None]]:
    """Paths to try, the given one first.

    Raises:
        Unusable: the path leaves the root.
    """
    if path.startswith("/") or "://" in path or ".." in path.split("/"):
        raise Unusable("bad path", f"{path!r}: paths are relative to the media folder and stay inside it")
    places = [path]
    head, _, tail = path.partition("/")
    places += [tail] if tail else []
    places += [storage.join(folder, path) for folder in _FOLDERS if head != folder]
    places += [path.replace(old, new) for old, new in _SWAPPED if old in path]
    extension = posixpath.splitext(path)[1]
    for other in [extension, *(known for known in _EXTENSIONS[kind] if extension and known != extension)]:
        for place in places:
            repair: Repair | None = None if place == path else "other path"
            yield posixpath.splitext(place)[0] + other, repair if other == extension else "other extension"
