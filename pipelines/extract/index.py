"""What there is to extract: names, sizes and versions of sources, from listings alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from pipelines import storage
from pipelines.errors import UserError
from pipelines.storage import StoredObject

# What a folder is searched for; a pattern, a list or a name is taken at its word.
MEDIA_SUFFIXES = frozenset(
    (
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
    )
)
LIST_SUFFIXES = frozenset({".txt", ".lst"})


def index_sources(source: str | Iterable[str]) -> list[StoredObject]:
    """The sources that a configuration names, in the order of their URIs, each once.

    Args:
        source: a folder or prefix (searched recursively for :data:`MEDIA_SUFFIXES`), a pattern, a ``.txt`` list with
            one name per line (relative ones start at the list), a file; or several of these.

    Raises:
        UserError: a name leads nowhere, or there is nothing to extract. A missing file inside a list is no error
            here: it is indexed with version ``missing`` and fails as one source.
    """
    names = [source] if isinstance(source, str) else list(source)
    try:
        found = {item.uri: item for name in names for item in _expand(storage.resolve(name))}
    except PermissionError as error:
        raise UserError(f"source={', '.join(names)}: not allowed to read it ({error}); check permissions") from None
    if not found:
        suffixes = " ".join(sorted(MEDIA_SUFFIXES))
        raise UserError(f"source={', '.join(names)}: no videos there; a folder is searched for {suffixes}")
    return [found[uri] for uri in sorted(found)]


def _expand(uri: str) -> Iterator[StoredObject]:
    if storage.is_folder(uri):
        yield from (item for item in storage.listing(uri, recursive=True) if _suffix(item.uri) in MEDIA_SUFFIXES)
        return
    item = _stat(uri)
    if item is not None and _suffix(uri) in LIST_SUFFIXES:
        yield from _listed(uri)
    elif item is not None:
        yield item
    elif any(sign in uri for sign in "*?["):
        yield from storage.glob(uri)
    else:
        raise UserError(f"source={storage.shown(uri)}: no such file or folder")


def _listed(list_uri: str) -> Iterator[StoredObject]:
    folder = list_uri.rpartition("/")[0]
    try:
        lines = storage.read_bytes(list_uri).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"source={storage.shown(list_uri)}: is no text; a list has one file name per line") from None
    for line in lines:
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        absolute = "://" in name or name.startswith(("/", "~"))
        uri = storage.resolve(name if absolute else storage.join(folder, name))
        yield _stat(uri) or StoredObject(uri, 0, storage.MISSING)


def _stat(uri: str) -> StoredObject | None:
    try:
        return storage.stat(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()
