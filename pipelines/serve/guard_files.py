"""``file://`` URLs under the roots of the policy, and ``data:`` URLs.

A path is followed component by component from its root, each opened relative to the one before and none a link, so
that nothing which changes on the way leads out. What was opened is then the only thing that is used: its descriptor.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipelines.serve.guard import MediaPolicy, MediaRefused
from pipelines.serve.guard_fetch import too_large

_FILE_URL = re.compile(r"file://(?:localhost)?(/(?:[!-\"$&->@-\[\]-~]|%[0-9A-Fa-f]{2})*)", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[!-+\--~]{0,200};base64,", re.IGNORECASE)
_SLICE_CHARS = 4 << 20


def path_of_url(url: str) -> str:
    """The absolute path that a file:// URL names, decoded once.

    Raises:
        MediaRefused: not such a URL, or its path has ``..``, an empty name, NUL or bytes that are not UTF-8.
    """
    match = _FILE_URL.fullmatch(url)
    if match is None:
        raise MediaRefused(
            "this file:// URL is not file:///absolute/path with its special characters percent-encoded",
            "write it as pathlib.Path.as_uri() does",
            400,
        )
    try:
        path = unquote_to_bytes(match[1]).decode("utf-8")
    except UnicodeDecodeError:
        raise MediaRefused("the path of this file:// URL is not UTF-8", "percent-encode its UTF-8 bytes", 400) from None
    if not path.isprintable() or {"", ".", ".."} & set(path[1:].split("/")):
        raise MediaRefused(
            "the path of this file:// URL has '.', '..', an empty or an unprintable part",
            "write the path out in full",
            400,
        )
    return path


def open_under_roots(path: str, policy: MediaPolicy) -> int:
    """A descriptor, open for reading, of a regular file under a root of the policy; the caller closes it.

    Links are followed as long as they stay under the root. Whether a file exists elsewhere cannot be learned.

    Raises:
        MediaRefused: outside the roots, missing, unreadable, or no regular file.
    """
    root = next((root for root in policy.file_roots if Path(path).is_relative_to(root)), None)
    if root is None:
        raise MediaRefused(
            "a file:// URL that is not under a media folder of this server",
            "upload the file to /v1/videos, or ask the operator to add its folder to file_roots",
            403,
        )
    root, real = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    if not real.is_relative_to(root) or real == root:
        raise MediaRefused("a file:// URL that leads out of the media folder", "name a file in it", 403)
    try:
        return _open_beneath(root, real.relative_to(root).parts)
    except FileNotFoundError:
        raise MediaRefused("a file:// URL of a file that does not exist", "check its path", 404) from None
    except OSError as error:
        raise MediaRefused(
            f"a file:// URL of a file that cannot be opened ({error.strerror})", "name a readable, regular file", 403
        ) from None


def _open_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """Open ``root/parts`` without following any link. Raises ``OSError``, also for what is no regular file."""
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inside = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = inside
        # A path descriptor of a pipe or a device has not opened it yet: only now it is known to be harmless.
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(0, "it is no regular file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


def decode_data_url(url: str, policy: MediaPolicy, take: Callable[[bytes], object]) -> None:
    """Hand the bytes of a base64 data: URL to ``take`` in order; its size is judged before any of it is decoded.

    Raises:
        MediaRefused: not base64, or beyond ``policy.max_bytes``.
    """
    header = _DATA_URL.match(url)
    if header is None:
        raise MediaRefused(
            "a data: URL that does not begin as data:video/mp4;base64, or the like", "encode the file as base64", 400
        )
    if (len(url) - header.end()) // 4 * 3 - 2 > policy.max_bytes:
        raise too_large("a data: URL", policy)
    for start in range(header.end(), len(url), _SLICE_CHARS):
        try:
            take(base64.b64decode(url[start : start + _SLICE_CHARS], validate=True))
        except (binascii.Error, ValueError):
            raise MediaRefused(
                "a data: URL whose data is not base64",
                "encode the file with the standard alphabet, no line breaks",
                400,
            ) from None
