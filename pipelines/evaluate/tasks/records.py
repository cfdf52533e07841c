"""Rows of benchmark files, read so that whatever is wrong with one is said by file, row and field."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError


@dataclass(frozen=True)
class Record:
    """One row. Every question for a field says what it must be, and raises ``UserError`` where it is not."""

    file: str
    """The file as messages call it, relative to the data folder."""
    number: int
    """Row in the file, from 1; a header is not counted."""
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"

    def error(self, field: str, problem: str) -> UserError:
        """What is raised for ``field``: file, row, field, value and what it should be."""
        value = f"={_shown(self.values[field])}" if field in self.values else ""
        return UserError(f"{self.file}, row {self.number}: {field}{value}: {problem}")

    def get(self, field: str) -> Any:
        if field not in self.values or self.values[field] is None:
            raise self.error(field, "is missing")
        return self.values[field]

    def text(self, field: str, *, empty: bool = False) -> str:
        """A text, as it stands. Numbers count as texts where a file leaves the quotes out."""
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(field, "must be text")
        if not empty and not str(value).strip():
            raise self.error(field, "is empty")
        return str(value)

    def number_of(self, field: str) -> float:
        """A finite number, 0 or more."""
        value = self.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self.error(field, "must be a number, 0 or more")
        return float(value)

    def integer(self, field: str, allowed: range) -> int:
        """A whole number within ``allowed``; digits in quotes count, as CSV has nothing else."""
        value = self.get(field)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            raise self.error(field, f"must be a whole number from {allowed.start} to {allowed.stop - 1}")
        return value

    def texts(self, field: str, least: int, most: int) -> tuple[str, ...]:
        """A list of texts, ``least`` to ``most`` of them."""
        value = self.get(field)
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or not all(isinstance(item, str) for item in value)
        ):
            raise self.error(field, "must be a list of texts")
        if not least <= len(value) <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise self.error(field, f"has {len(value)} entries, must have {count}")
        return tuple(value)

    def one_of(self, field: str, allowed: Collection[str]) -> str:
        value = self.text(field)
        if value not in allowed:
            raise self.error(field, f"must be one of {', '.join(allowed)}")
        return value


def read_json(path: Path, root: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is not valid JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{_name(path, root)}: is not text in UTF-8 ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{_name(path, root)}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            "fetch the file again"
        ) from None


def json_records(path: Path, root: Path) -> list[Record]:
    """The rows of a JSON list."""
    rows = read_json(path, root)
    if not isinstance(rows, list):
        raise UserError(f"{_name(path, root)}: must be a list of rows, not {_kind(rows)}")
    return list(_records(path, root, rows))


def json_line_records(path: Path, root: Path) -> list[Record]:
    """The rows of a file with one JSON object per line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{_name(path, root)}, row {number}: not valid JSON ({error.msg})") from None
    return list(_records(path, root, rows))


def csv_records(path: Path, root: Path) -> list[Record]:
    """The rows of a CSV file with a header; every value is text, nothing is read as missing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        records = []
        try:
            for number, row in enumerate(reader, 1):
                if "" in row:
                    raise UserError(f"{_name(path, root)}, row {number}: has more fields than the header")
                records.append(Record(_name(path, root), number, row))
        except csv.Error as error:
            raise UserError(f"{_name(path, root)}, line {reader.line_num}: not valid CSV ({error})") from None
    return records


def parquet_records(path: Path, root: Path) -> list[Record]:
    """The rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{_name(path, root)}: not a Parquet file ({error}); fetch it again") from None
    return list(_records(path, root, table.to_pylist()))


def paired(questions: Sequence[Record], answers: Sequence[Record], key: str | None) -> Iterator[Record]:
    """Rows of a file of questions joined by position with one of answers.

    Args:
        key: a field that both have and that must agree; None where the answers have none.

    Raises:
        UserError: the files differ in length, or do not belong together.
    """
    if len(questions) != len(answers):
        asked, given = questions or answers, answers or questions
        raise UserError(
            f"{asked[0].file} has {len(questions)} rows and {given[0].file} has {len(answers)}; they are joined by "
            "position, so take both from one release"
        )
    for question, answer in zip(questions, answers, strict=True):
        if key is not None and question.get(key) != answer.get(key):
            raise answer.error(key, f"{question.where} has {_shown(question.values[key])}; the files do not match")
        yield Record(question.file, question.number, {**answer.values, **question.values})


def find_file(root: Path, *names: str) -> Path | None:
    """The first of several places that exists."""
    return next((root / name for name in names if (root / name).exists()), None)


def find_media(folders: Sequence[Path], name: str, extensions: Sequence[str] = ("",)) -> str:
    """The absolute path of a video: the first that exists, else where it was published to be.

    Args:
        folders: in which it may lie, the published one first.
        name: with sub-folders, without extension.
        extensions: as ``.mp4``, the published one first; each is tried in capitals too.
    """
    cases = [case for extension in extensions for case in dict.fromkeys((extension, extension.upper()))]
    paths = [folder / f"{name}{case}" for folder in folders for case in cases]
    return str(next((path for path in paths if path.exists()), paths[0]).absolute())


def _records(path: Path, root: Path, rows: Sequence[Any]) -> Iterator[Record]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{_name(path, root)}, row {number}: must be an object with named fields, not {_kind(row)}")
        yield Record(_name(path, root), number, row)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _kind(value: object) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
    return kinds.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
