"""What there is to extract: names, sizes, versions and kinds of sources, from listings alone."""

from __future__ import annotations

import itertools
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.source_list import is_list, listed_names
from pipelines.storage import StoredObject

VIDEO = "video"
IMAGE = "image"

# What a folder is searched for; a pattern, a list or a name is taken at its word.
VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)
IMAGE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_COLUMN_KINDS = {"video": VIDEO, "video_path": VIDEO, "image": IMAGE, "image_path": IMAGE}

_STATS_AT_ONCE = 32
_BATCH = 500
# On S3 a page of a thousand names costs about as much as this many requests for single ones.
_LISTED_FROM = 100


@dataclass(frozen=True)
class Source(StoredObject):
    """A source to extract.

    Args:
        kind: "video", or "image": the one frame of a picture.
        retry: how often it was taken out of quarantine.
    """

    kind: str = VIDEO
    retry: int = 0

    @property
    def identity(self) -> tuple[str, str]:
        """What makes a source the same source: its URI and version."""
        return self.uri, self.version


def index_sources(
    source: str | Iterable[str], *, column: str | None = None, media_root: str | None = None
) -> list[Source]:
    """The sources that a configuration names, in the order of their URIs, each once.

    Args:
        source: a folder or prefix (searched recursively for :data:`VIDEO_SUFFIXES` and :data:`IMAGE_SUFFIXES`), a
            pattern, a list (see ``source_list.py``), a file; or several of these. A pattern that ends as lists do
            names lists.
        column: column or key of lists that holds names.
        media_root: where relative names in lists start; each list's folder when absent.

    Raises:
        UserError: a name leads nowhere, or there is nothing to extract. A missing file inside a list is no error
            here: it is indexed with version ``missing`` and fails as one source.
    """
    names = [source] if isinstance(source, str) else list(source)
    shown = ", ".join(names)
    found: dict[str, Source] = {}
    try:
        for name in names:
            for item in _expand(storage.resolve(name), column, media_root):
                found.setdefault(item.uri, item)
    except PermissionError as error:
        raise UserError(f"source={shown}: not allowed to read it ({error}); check permissions") from None
    if not found:
        suffixes = " ".join(sorted(_SUFFIXES))
        raise UserError(f"source={shown}: no videos or images there; a folder is searched for {suffixes}")
    return [found[uri] for uri in sorted(found)]


def _expand(uri: str, column: str | None, media_root: str | None) -> Iterator[Source]:
    if storage.is_folder(uri):
        yield from (_source(item) for item in storage.listing(uri, recursive=True) if _suffix(item.uri) in _SUFFIXES)
        return
    item = _stat(uri)
    if item is not None:
        lists, others = ([item], []) if is_list(uri) else ([], [item])
    elif any(sign in uri for sign in "*?["):
        matches = list(storage.glob(uri))
        lists, others = (matches, []) if is_list(uri) else ([], matches)
    else:
        raise UserError(f"source={storage.shown(uri)}: no such file or folder")
    yield from map(_source, others)
    for listed in lists:
        yield from _listed(listed.uri, column, media_root)


def _listed(list_uri: str, column: str | None, media_root: str | None) -> Iterator[Source]:
    columns: dict[str, str] = {}
    for name, uri in listed_names(list_uri, column=column, media_root=media_root):
        columns.setdefault(uri, name)
    for item in stat_all(list(columns)):
        yield _source(item, _COLUMN_KINDS.get(columns[item.uri]))


def stat_all(uris: list[str]) -> Iterator[StoredObject]:
    """Sizes and versions of many objects; one that is not there, or may not be looked at, has version ``missing``.

    Concurrent, and on S3 by listing the folders that hold many of them.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    single: list[str] = []
    for uri in uris:
        folder, _, name = uri.rpartition("/")
        # Listings leave out names that begin with a dot.
        (single if storage.is_local(uri) or name.startswith(".") else folders[folder]).append(uri)
    for folder in [folder for folder, members in folders.items() if len(members) < _LISTED_FROM]:
        single += folders.pop(folder)
    with ThreadPoolExecutor(_STATS_AT_ONCE) as threads:
        listings = threads.map(lambda folder: _stat_listed(folder, folders[folder]), folders)
        size = max(1, min(_BATCH, len(single) // _STATS_AT_ONCE))
        batches = threads.map(_stat_each, (single[start : start + size] for start in range(0, len(single), size)))
        yield from itertools.chain.from_iterable(itertools.chain(listings, batches))


def _stat_listed(folder: str, uris: list[str]) -> list[StoredObject]:
    found = {item.uri: item for item in storage.listing(folder)}
    return [found.get(uri) or _missing(uri) for uri in uris]


def _stat_each(uris: Iterable[str]) -> list[StoredObject]:
    found = []
    for uri in uris:
        try:
            found.append(_stat(uri) or _missing(uri))
        except PermissionError:
            found.append(_missing(uri))
    return found


def _missing(uri: str) -> StoredObject:
    return StoredObject(uri, 0, storage.MISSING)


def _stat(uri: str) -> StoredObject | None:
    try:
        return storage.stat(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _source(item: StoredObject, listed_as: str | None = None) -> Source:
    """What the suffix says counts before what a list says, but a GIF may be either."""
    suffix = _suffix(item.uri)
    if suffix in IMAGE_SUFFIXES:
        kind = IMAGE
    elif suffix in VIDEO_SUFFIXES and suffix != ".gif":
        kind = VIDEO
    else:
        kind = listed_as or VIDEO
    return Source(**vars(item), kind=kind)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()
