"""Lists of sources: text, CSV, TSV, Parquet, JSON lines and the JSON lists of LLaVA-style annotations.

Rows are read as a stream, so a list may be larger than memory. Whether the files exist is not looked at here.

JSON goes through the standard library's decoder, one row at a time: Arrow's reader wants one object per line and one
type per key, while annotation files are one list, with ids that are numbers or text and images that are one or many.
"""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError

LIST_SUFFIXES = frozenset((".txt", ".lst", ".csv", ".tsv", ".json", ".jsonl", ".parquet"))

COLUMNS = (
    ("video", "image"),
    ("video_path", "image_path"),
    ("source",),
    ("uri",),
    ("path",),
    ("file",),
    ("file_name",),
    ("url",),
)
"""Where the names may stand: the first group of which a row (of a table: the header) has any."""

# What published annotation files write where a row has no medium.
_NO_MEDIUM = frozenset(("", "none", "null", "nan"))
_BLOCK_CHARS = 1 << 20
_LONGEST_ROW_CHARS = 64 << 20
_BETWEEN_ROWS = re.compile(r"[\s,]*")

Row = tuple[str, Any]
"""Column and value; the column of a line of text is empty."""


def listed_names(list_uri: str, *, column: str | None = None, media_root: str | None = None) -> Iterator[Row]:
    """Column and resolved URI of every medium that a list names, in its order, repeated where it repeats itself.

    Args:
        list_uri: resolved URI of the list; its suffix, one of :data:`LIST_SUFFIXES`, tells the format.
        column: column or key that holds the names; found by :data:`COLUMNS` when absent. Text files have none.
        media_root: where relative names start; the list's folder when absent.

    Raises:
        UserError: the list cannot be parsed, has no such column, or holds something that is no name.
    """
    root = storage.resolve(media_root) if media_root else list_uri.rpartition("/")[0]
    shown = storage.shown(list_uri)
    try:
        for number, (name, value) in enumerate(_rows(list_uri, column), 1):
            try:
                for text in _texts(value):
                    yield name, _resolved(text, root)
            except UserError as error:
                raise UserError(f"source={shown}: row {number}: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"source={shown}: is no UTF-8 text; save it as UTF-8") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"source={shown}: cannot be read ({str(error).splitlines()[0]}); mend the list") from None


def is_list(uri: str) -> bool:
    """Whether a name is that of a list."""
    return posixpath.splitext(uri)[1].lower() in LIST_SUFFIXES


def _rows(list_uri: str, column: str | None) -> Iterator[Row]:
    suffix = posixpath.splitext(list_uri)[1].lower()
    if suffix == ".parquet":
        with storage.arrow_input(list_uri) as file:
            yield from _parquet_rows(file, list_uri, column)
    elif suffix in (".csv", ".tsv"):
        yield from _csv_rows(list_uri, column, "\t" if suffix == ".tsv" else ",")
    else:
        with storage.open_input(list_uri) as file:
            if suffix in (".json", ".jsonl"):
                yield from _json_media(file, list_uri, column)
            else:
                yield from _lines(file)


def _lines(file: IO[bytes]) -> Iterator[Row]:
    for line in io.TextIOWrapper(file, "utf-8-sig"):
        if not line.lstrip().startswith("#"):
            yield "", line


def _csv_rows(list_uri: str, column: str | None, delimiter: str) -> Iterator[Row]:
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with storage.open_input(list_uri) as file:
        try:
            header = pyarrow.csv.open_csv(file, parse_options=parse).schema.names
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return
            raise
    names = _found(header, column, list_uri)
    convert = pyarrow.csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
    with storage.open_input(list_uri) as file:
        yield from _table_rows(pyarrow.csv.open_csv(file, parse_options=parse, convert_options=convert))


def _parquet_rows(file: pa.NativeFile, list_uri: str, column: str | None) -> Iterator[Row]:
    parquet = pq.ParquetFile(file)
    names = _found(parquet.schema_arrow.names, column, list_uri)
    yield from _table_rows(parquet.iter_batches(columns=names))


def _table_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    for batch in batches:
        columns = [(name, batch[name].to_pylist()) for name in batch.schema.names]
        for number in range(batch.num_rows):
            for name, values in columns:
                yield name, values[number]


def _found(names: list[str], column: str | None, list_uri: str) -> list[str]:
    """The columns of a table that hold names."""
    groups = COLUMNS if column is None else ((column,),)
    for group in groups:
        found = [name for name in group if name in names]
        if found:
            return found
    raise _no_column(sorted(names), column, list_uri)


def _no_column(names: Iterable[str], column: str | None, list_uri: str) -> UserError:
    wanted = f"source_column={column}" if column else ", ".join(name for group in COLUMNS for name in group)
    return UserError(
        f"source={storage.shown(list_uri)}: no column {wanted}; it has: {', '.join(names) or 'none'}; "
        "name the one that holds the files with source_column=..."
    )


def _json_media(file: IO[bytes], list_uri: str, column: str | None) -> Iterator[Row]:
    """Media of rows that are objects or bare names. A row of text alone is no mistake, a file of such rows is."""
    groups = COLUMNS if column is None else ((column,),)
    seen: dict[str, None] = {}
    any_row = any_column = False
    for row in _json_rows(file, list_uri):
        any_row = True
        if not isinstance(row, Mapping):
            any_column = True
            yield "", row
            continue
        found = next((present for group in groups if (present := [name for name in group if name in row])), [])
        any_column = any_column or bool(found)
        if not any_column:
            seen |= dict.fromkeys(map(str, row))
        for name in found:
            yield name, row[name]
    if any_row and not any_column:
        raise _no_column(seen, column, list_uri)


def _json_rows(file: IO[bytes], list_uri: str) -> Iterator[Any]:
    """Values of a JSON list, or of values one after the other (JSON lines), told apart by the first character."""
    decode = json.JSONDecoder().raw_decode
    text = io.TextIOWrapper(file, "utf-8-sig")
    buffer, at, before, number = text.read(_BLOCK_CHARS), 0, 0, 1
    at = len(buffer) - len(buffer.lstrip())
    in_list = buffer.startswith("[", at)
    at += in_list
    while True:
        at = _BETWEEN_ROWS.match(buffer, at).end()  # type: ignore[union-attr] # it matches nothing, too
        if in_list and buffer.startswith("]", at):
            return
        complaint: json.JSONDecodeError | None = None
        if at < len(buffer):
            try:
                row, at = decode(buffer, at)
            except json.JSONDecodeError as error:
                complaint = error
            else:
                number += 1
                yield row
                continue
        rest = len(buffer) - at
        more = text.read(max(_BLOCK_CHARS, rest)) if rest < _LONGEST_ROW_CHARS else ""
        if not more and complaint is None and not in_list:
            return
        if not more:
            what = complaint.msg if complaint else "the list is cut short, its ] is missing"
            place = before + (complaint.pos if complaint else at)
            raise UserError(
                f"source={storage.shown(list_uri)}: not valid JSON at row {number}, character {place}: {what}"
            )
        before += at
        buffer, at = buffer[at:] + more, 0


def _texts(value: Any) -> Iterator[str]:
    """The names in a value: none, one or, in a list, several."""
    if value is None or (isinstance(value, float) and value != value):
        return
    if isinstance(value, str):
        text = value.strip()
        if text.lower() not in _NO_MEDIUM:
            yield text
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        kind = "bytes beside a path" if isinstance(value, Mapping) and "bytes" in value else type(value).__name__
        raise UserError(f"holds {kind}, not the name of a file; unpack the media to files, or set source_column=...")


def _resolved(name: str, root: str) -> str:
    with contextlib.suppress(storage.StorageError):
        if "://" in name or name.startswith(("/", "~")):
            return storage.resolve(name)
        scheme, _, folder = root.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(folder, name))}"
    raise UserError(f"{name!r} is neither a path nor file:// nor s3://; download it first")
