"""Rows of annotation files as they are distributed: JSON lists, JSON lines, and YAML lists of such files.

Files of gigabytes are streamed: no more than a few rows are in memory. What a row means is in
:mod:`pipelines.train.samples`.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import posixpath
import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import yaml

from pipelines import storage
from pipelines.errors import UserError

_CHUNK_CHARS = 1 << 20
_MAX_ROW_CHARS = 64 << 20
_LISTED_KEYS = {"json_path", "sampling_strategy"}
_BLANK = re.compile(r"[ \t\r\n]*")
_STRATEGY = re.compile(r"all|(?P<which>first|end|random):(?P<amount>\d+(\.\d+)?)(?P<percent>%?)")


@dataclass(frozen=True)
class AnnotationFile:
    """One file of rows.

    Args:
        uri: ``.json`` (a list) or ``.jsonl`` (a row per line); which of the two is seen from its first character.
        media: folder or prefix that the rows' media paths are relative to.
        strategy: which rows to take: ``all``, ``first:N``, ``end:N`` or ``random:N``, N a number or a per cent
            (rounded up), counted in the order of the file.
    """

    uri: str
    media: str
    strategy: str = "all"

    def __post_init__(self) -> None:
        match = _STRATEGY.fullmatch(self.strategy)
        if match is None or ("." in (match["amount"] or "") and not match["percent"]):
            raise UserError(
                f"{storage.shown(self.uri)}: sampling_strategy {self.strategy!r}: use all, first:N, end:N or random:N, "
                f"N a number or a per cent such as 10%"
            )


def annotation_files(uri: str, media: str) -> list[AnnotationFile]:
    """The files that a name stands for: itself, or those that a LLaVA-OneVision ``.yaml`` lists.

    Args:
        uri: ``.json``, ``.jsonl``, or ``.yaml`` with ``datasets: [{json_path, sampling_strategy}]``, whose paths are
            relative to it.
        media: folder or prefix of the media.

    Raises:
        UserError: the file is missing or its list is malformed.
    """
    uri, media = storage.resolve(uri), storage.resolve(media)
    if posixpath.splitext(uri)[1].lower() not in (".yaml", ".yml"):
        if not storage.exists(uri):
            raise UserError(f"annotations {storage.shown(uri)}: no such file")
        return [AnnotationFile(uri, media)]
    try:
        listed = yaml.safe_load(storage.read_bytes(uri))
        entries = [dict(entry) for entry in listed["datasets"]]
        names = [str(entry["json_path"]) for entry in entries]
    except FileNotFoundError:
        raise UserError(f"annotations {storage.shown(uri)}: no such file") from None
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        raise UserError(
            f"annotations {storage.shown(uri)}: must be YAML with datasets: a list of json_path and sampling_strategy"
        ) from None
    folder = posixpath.dirname(uri)
    uris = [name if "://" in name or name.startswith("/") else storage.join(folder, name) for name in names]
    for entry in entries:
        if unknown := sorted(set(entry) - _LISTED_KEYS):
            raise UserError(
                f"annotations {storage.shown(uri)}: unknown key {unknown[0]!r} beside json_path={entry['json_path']}; "
                f"there are {' and '.join(sorted(_LISTED_KEYS))}"
            )
    missing = [name for name in uris if not storage.exists(storage.resolve(name))]
    if missing:
        raise UserError(f"annotations {storage.shown(uri)}: names {missing[0]}, which is not there")
    strategies = [str(entry.get("sampling_strategy", "all")) for entry in entries]
    return [
        AnnotationFile(storage.resolve(name), media, strategy) for name, strategy in zip(uris, strategies, strict=True)
    ]


def read_rows(file: AnnotationFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the file from 0, row) of the rows that the file's strategy takes, in the order of the file.

    Raises:
        UserError: invalid JSON; the message has the row and the byte. Nothing after it is read.
    """
    chosen = _chosen(file)
    with storage.open_input(file.uri) as binary:
        records = json_records(io.TextIOWrapper(binary, "utf-8-sig"), storage.shown(file.uri))
        stop = None if chosen is None else max(chosen, default=-1) + 1
        for number, record in enumerate(itertools.islice(records, stop)):
            if chosen is None or number in chosen:
                yield number, record


def json_records(text: TextIO, name: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON list, or of JSON lines, read piece by piece.

    Args:
        name: how messages call the file.
    """
    source = _Characters(text, name)
    listed = source.peek() == "["
    if listed:
        source.skip()
    row = 0
    while char := source.peek():
        if listed and char == "]":
            source.skip()
            if source.peek():
                raise source.error(row, "there is more after the end of the list")
            return
        if listed and row:
            if char != ",":
                raise source.error(row, "a comma or ] is missing")
            source.skip()
            char = source.peek()
        if char != "{":
            raise source.error(row, "a row must be an object, {...}")
        yield source.object(row)
        row += 1
    if listed:
        raise source.error(row, "the list is not closed: the file is cut")


class _Characters:
    """A text read in chunks, with a place in it."""

    def __init__(self, text: TextIO, name: str) -> None:
        self._text, self._name = text, name
        self._buffer, self._at, self._bytes_before = "", 0, 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            match = _BLANK.match(self._buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._buffer) or not self._more(_CHUNK_CHARS):
                return self._buffer[self._at : self._at + 1]

    def skip(self) -> None:
        self._at += 1

    def object(self, row: int) -> dict[str, Any]:
        wanted = _CHUNK_CHARS
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._buffer, self._at)
                return value
            except json.JSONDecodeError as error:
                distance = error.pos - self._at
                if len(self._buffer) - self._at > _MAX_ROW_CHARS or not self._more(wanted):
                    self._at += distance
                    raise self.error(row, error.msg) from None
                wanted *= 2

    def error(self, row: int, problem: str) -> UserError:
        byte = self._bytes_before + len(self._buffer[: self._at].encode())
        return UserError(f"{self._name}: row {row}, byte {byte}: {problem}; mend the file, no row is passed over")

    def _more(self, chars: int) -> bool:
        try:
            read = self._text.read(chars)
        except UnicodeDecodeError as error:
            raise UserError(f"{self._name}: is not UTF-8 text ({error.reason})") from None
        self._bytes_before += len(self._buffer[: self._at].encode())
        self._buffer, self._at = self._buffer[self._at :] + read, 0
        return bool(read)


def _chosen(file: AnnotationFile) -> Collection[int] | None:
    """Numbers of the rows to take; None for all. Reads the file once where their number is needed."""
    match = _STRATEGY.fullmatch(file.strategy)
    assert match is not None
    if match["which"] is None:
        return None
    total = None
    if match["percent"] or match["which"] != "first":
        with storage.open_input(file.uri) as binary:
            total = sum(1 for _ in json_records(io.TextIOWrapper(binary, "utf-8-sig"), storage.shown(file.uri)))
    amount = float(match["amount"])
    # the product is rounded first: 10 % of 30 is 3, not 3.0000000000000004
    count = math.ceil(round(amount / 100 * total, 9)) if match["percent"] and total is not None else int(amount)
    if total is None:
        return range(count)
    count = min(count, total)
    if match["which"] == "random":
        # named by the file, so that adding another file to a list changes nothing here
        return frozenset(random.Random(posixpath.basename(file.uri)).sample(range(total), count))
    return range(count) if match["which"] == "first" else range(total - count, total)
