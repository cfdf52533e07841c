"""One way to reach bytes: local folders and ``s3://`` by the same functions.

A URI is a plain path, ``file://`` plus an absolute path (not percent-encoded), or ``s3://bucket/key``. S3 endpoint,
region and credentials come from the standard AWS variables and files (``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` ...).

Errors: ``FileNotFoundError`` and ``PermissionError`` as usual when reading; :class:`StorageError` for what cannot be
written and for everything else that the storage service answers. Nothing here retries but botocore and s3fs
(``AWS_MAX_ATTEMPTS``); ``retry.py`` repeats whole actions.
"""

from __future__ import annotations

import contextlib
import functools
import glob as local_glob
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from pipelines.errors import UserError

if TYPE_CHECKING:
    import pyarrow

S3 = "s3://"
FILE = "file://"

# Parts of a multipart upload; anything smaller is one PUT.
_S3_PART_BYTES = 16 << 20
# The headers of most videos fit in one or two.
_S3_RANGE_BYTES = 256 << 10

MISSING = "missing"
"""The version of a source that was named but is not there."""


class StorageError(UserError, OSError):
    """The storage service could not do what was asked; the message names the URI and the service's answer."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells about an object, without reading it.

    ``version`` changes when the content does: ``etag:...`` on S3, ``mtime:<nanoseconds>`` locally. ``modified_s`` is
    when it was written, epoch seconds, and no part of what makes two objects the same.
    """

    uri: str
    size_bytes: int
    version: str
    modified_s: float = field(default=0.0, compare=False)


def resolve(uri: str | Path) -> str:
    """The one spelling of a URI: ``s3://bucket/key`` or ``file:///absolute/path``, without a trailing slash.

    Raises:
        StorageError: the scheme is neither ``file`` nor ``s3``, or the bucket is missing.
    """
    text = str(uri)
    if text.startswith(S3):
        if not text.removeprefix(S3).strip("/"):
            raise StorageError(f"{text}: has no bucket; write s3://bucket/prefix")
        return text.rstrip("/")
    if "://" in text and not text.startswith(FILE):
        scheme = text.partition("://")[0]
        raise StorageError(f"{text}: scheme {scheme!r} is not supported; use a path, file:// or s3://")
    return FILE + os.path.abspath(os.path.expanduser(text.removeprefix(FILE)))


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return not uri.startswith(S3)


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    assert is_local(uri), uri
    return Path(uri.removeprefix(FILE))


def shown(uri: str) -> str:
    """A URI as a person would type it: local ones as paths."""
    return str(local_path(uri)) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """Append path segments."""
    return posixpath.join(uri, *parts)


def stat(uri: str) -> StoredObject:
    """Size and version of one object.

    Raises:
        FileNotFoundError: there is none.
    """
    if is_local(uri):
        return _local_object(local_path(uri))
    with _s3_errors(uri):
        return _s3_object(_s3().info(uri))


def exists(uri: str) -> bool:
    """Whether an object of this name exists."""
    try:
        stat(uri)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_folder(uri: str) -> bool:
    """Whether anything lies under this name."""
    if is_local(uri):
        return local_path(uri).is_dir()
    with _s3_errors(uri):
        return bool(_s3().isdir(uri))


def listing(uri: str, *, recursive: bool = False, prefix: str = "") -> Iterator[StoredObject]:
    """Objects under a folder, in the order of their names; names that begin with a dot are left out.

    A folder that does not exist is empty, as on S3.

    Args:
        recursive: also those in folders below.
        prefix: how names begin, of the folder's own objects; it may begin with a dot.
    """
    assert not (recursive and prefix), "prefixes are of names in one folder"
    if is_local(uri):
        yield from _local_listing(local_path(uri), recursive, prefix)
        return
    with _s3_errors(uri):
        try:
            # Only without a depth do all versions of s3fs let the server look at the prefix.
            found = _s3().find(uri, maxdepth=None if recursive or prefix else 1, prefix=prefix, detail=True)
        except FileNotFoundError:
            found = {}
    for _, info in sorted(found.items()):
        if prefix.startswith(".") or not posixpath.basename(info["name"]).startswith("."):
            yield _s3_object(info)


def glob(pattern: str) -> Iterator[StoredObject]:
    """Objects that match a pattern with ``*``, ``?``, ``[..]`` or ``**``, in the order of their names."""
    if is_local(pattern):
        for name in sorted(local_glob.glob(str(local_path(pattern)), recursive=True)):
            if os.path.isfile(name):
                yield _local_object(Path(name))
        return
    with _s3_errors(pattern):
        found = _s3().glob(pattern, detail=True)
    for _, info in sorted(found.items()):
        if info["type"] == "file":
            yield _s3_object(info)


def read_bytes(uri: str) -> bytes:
    """The whole object."""
    if is_local(uri):
        return local_path(uri).read_bytes()
    with _s3_errors(uri):
        return bytes(_s3().cat_file(uri))


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small object so that others see all of it or nothing, replacing an older one.

    Locally a temporary file, synced to disk and renamed; on S3 a single PUT.
    """
    if not is_local(uri):
        with _s3_errors(uri):
            _s3().pipe_file(uri, data)
        return
    with _local_write_errors(uri):
        _replace_file(local_path(uri), data)


def remove(uri: str) -> None:
    """Delete one object; one that is already gone is no error."""
    with _s3_errors(uri), contextlib.suppress(FileNotFoundError):
        if is_local(uri):
            local_path(uri).unlink()
        else:
            _s3().rm_file(uri)


def open_input(uri: str) -> BinaryIO:
    """A seekable binary file for reading."""
    if is_local(uri):
        return local_path(uri).open("rb")
    with _s3_errors(uri):
        file: BinaryIO = _s3().open(uri, "rb", block_size=_S3_PART_BYTES, cache_type="readahead")
        return file


@contextlib.contextmanager
def local_or_ranged(uri: str) -> Iterator[Path | BinaryIO]:
    """The object for a reader that jumps about: its path where local, else a file of small ranged reads.

    The blocks that were read last are kept, so a few kilobytes here and there cost a few requests.
    """
    if is_local(uri):
        yield local_path(uri)
        return
    with _s3_errors(uri), _s3().open(uri, "rb", block_size=_S3_RANGE_BYTES, cache_type="blockcache") as file:
        yield file


def arrow_input(uri: str) -> pyarrow.NativeFile:
    """A file for Arrow's readers: memory-mapped where local, ranged GETs on S3 (Arrow merges them itself)."""
    import pyarrow

    if is_local(uri):
        return pyarrow.memory_map(str(local_path(uri)))
    with _s3_errors(uri):
        return pyarrow.PythonFile(_s3().open(uri, "rb", cache_type="none"), mode="r")


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A file system of Arrow's, and the path in it that the URI means."""
    import pyarrow.fs

    if is_local(uri):
        return pyarrow.fs.LocalFileSystem(), str(local_path(uri))
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(_s3())), uri.removeprefix(S3)


class HashingOutput:
    """A binary file that is written once, front to back, and knows its SHA-256 and size without being read again.

    Not atomic locally: a reader learns of the file from a commit, which is written after :meth:`close`.
    On S3 the object appears at :meth:`close`; leaving the ``with`` block by an exception discards it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.size_bytes = 0
        self.closed = False
        self._hash = hashlib.sha256()
        if is_local(uri):
            with _local_write_errors(uri):
                local_path(uri).parent.mkdir(parents=True, exist_ok=True)
                self._file: Any = local_path(uri).open("wb")
        else:
            with _s3_errors(uri):
                self._file = _s3().open(uri, "wb", block_size=_S3_PART_BYTES)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        view = memoryview(data)
        with _local_write_errors(self.uri), _s3_errors(self.uri):
            self._file.write(view)
        self._hash.update(view)
        self.size_bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.size_bytes

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with _local_write_errors(self.uri), _s3_errors(self.uri):
            if is_local(self.uri):
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if is_local(self.uri):
                _sync_folder(local_path(self.uri).parent)

    def discard(self) -> None:
        """Give up: what was written so far disappears."""
        if self.closed:
            return
        self.closed = True
        if is_local(self.uri):
            self._file.close()
            local_path(self.uri).unlink(missing_ok=True)
        else:
            self._file.discard()
            self._file.closed = True  # or s3fs tries to finish the upload when the object is collected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


@contextlib.contextmanager
def local_copy(uri: str, scratch: str | None = None) -> Iterator[Path]:
    """The object as a file on this machine: itself where local, otherwise downloaded and deleted afterwards.

    Args:
        scratch: folder for downloads; the system's temporary folder when absent.
    """
    if is_local(uri):
        yield local_path(uri)
        return
    suffix = posixpath.splitext(uri)[1]
    with tempfile.NamedTemporaryFile(suffix=suffix, dir=scratch) as copy:
        with _s3_errors(uri), open_input(uri) as remote:
            for block in iter(lambda: remote.read(_S3_PART_BYTES), b""):
                with _local_write_errors(FILE + copy.name):
                    copy.write(block)
        copy.flush()
        yield Path(copy.name)


def sha256(uri: str) -> str:
    """SHA-256 of the content, 64 hex digits."""
    digest = hashlib.sha256()
    with open_input(uri) as file:
        while block := file.read(_S3_PART_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _local_object(path: Path) -> StoredObject:
    return _stated(str(path), path.stat())


def _stated(path: str, status: os.stat_result) -> StoredObject:
    return StoredObject(FILE + path, status.st_size, f"mtime:{status.st_mtime_ns}", status.st_mtime)


def _local_listing(
    folder: Path, recursive: bool, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[StoredObject]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if not entry.name.startswith(prefix) or (entry.name.startswith(".") and not prefix.startswith(".")):
            continue
        if entry.is_dir():
            if recursive:
                yield from _local_listing(Path(entry.path), recursive, above=above | {real})
            continue
        try:
            yield _stated(entry.path, entry.stat())
        except PermissionError:
            raise
        except OSError:  # a link to nothing, or to itself, is listed, so that it is reported and not passed over
            yield StoredObject(FILE + entry.path, 0, MISSING)


def _replace_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def _local_write_errors(uri: str) -> Iterator[None]:
    """A path that cannot be written, or a full disk, is the user's to mend."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if not is_local(uri):
            raise
        why = error.strerror or str(error)
        raise StorageError(f"{shown(uri)}: cannot be written ({why}); check the path and the free space") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _s3_object(info: dict[str, Any]) -> StoredObject:
    if info.get("type") == "directory":
        raise FileNotFoundError(f"{S3}{info['name']} is a prefix, not an object")
    etag = str(info["ETag"]).strip('"')
    return StoredObject(S3 + info["name"], int(info["size"]), f"etag:{etag}", info["LastModified"].timestamp())


@functools.cache
def _s3() -> Any:
    import s3fs

    # Other processes write to the same prefixes, so a remembered listing would hide their work.
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)


@contextlib.contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Name the URI in what botocore raises, which is no OSError (no endpoint, no credentials, wrong region ...)."""
    if is_local(uri):
        yield
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise StorageError(f"{uri}: its bucket does not exist; create it or give another") from error
        raise
    except (PermissionError, StorageError):
        raise
    except (BotoCoreError, ClientError, OSError) as error:
        raise StorageError(f"{uri}: {' '.join(str(error).split())}; check AWS_ENDPOINT_URL and credentials") from error


def _code(error: BaseException) -> str | None:
    """S3's own name for an error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return str(code) if code else None
