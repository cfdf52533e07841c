"""API keys: known by their SHA-256 only, compared in constant time.

An entry is ``sha256:<64 hex digits>``, optionally ``name=sha256:...``. Keys have 256 random bits, so a plain hash
tells nothing. No message here repeats an entry or a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.serve.config import AuthSettings

_ENTRY = re.compile(r"(?:(?P<name>[\w.-]{1,64})=)?sha256:(?P<digest>[0-9a-fA-F]{64})")
PREFIX = "lv-"


@dataclass(frozen=True)
class Key:
    """Who a request comes from; ``name`` may be logged."""

    name: str
    digest: str


def new_key() -> tuple[str, str]:
    """A fresh key and the entry that admits it."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"sha256:{_digest(key)}"


class Keys:
    """The keys that are admitted."""

    def __init__(self, keys: Iterable[Key]):
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: str | None) -> Key | None:
        """Whose ``Authorization`` header this is: ``Bearer KEY``, or Basic with KEY as the password (browsers).

        Every key is compared, so the time tells neither which one matched nor how far.
        """
        digest = _digest(_presented(authorization or ""))
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def load_keys(settings: AuthSettings) -> Keys:
    """Keys of the settings, their file and their environment variable.

    Raises:
        UserError: an entry is malformed, the file cannot be read, or there is no key though one is required.
    """
    entries = [("auth.entries", entry) for entry in settings.entries]
    if settings.file is not None:
        try:
            lines = settings.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = type(error).__name__
            raise UserError(f"auth.file={settings.file}: cannot be read ({why}); check the path") from None
        entries += [(f"{settings.file}:{n}", line.partition("#")[0].strip()) for n, line in enumerate(lines, 1)]
    entries += [(settings.environment, entry.strip()) for entry in os.environ.get(settings.environment, "").split(",")]
    keys = Keys(_parsed((where, entry) for where, entry in entries if entry))
    if settings.required and not keys:
        raise UserError(
            f"no API key: put an entry of `longvu serve --new-key` into auth.file or {settings.environment}, "
            f"or give auth.required=false"
        )
    return keys


def _parsed(entries: Iterable[tuple[str, str]]) -> Iterator[Key]:
    for number, (where, entry) in enumerate(entries, 1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise UserError(
                f"{where}: entry {number} is not name=sha256:<64 hex digits>; `longvu serve --new-key` makes one"
            )
        yield Key(match["name"] or f"key{number}", match["digest"].lower())


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _presented(authorization: str) -> str:
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
        except binascii.Error:
            return ""
    return ""
