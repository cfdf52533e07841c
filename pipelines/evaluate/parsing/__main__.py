"""Check the parser against replies with known readings.

    python -m pipelines.evaluate.parsing FILE.jsonl [FILE.jsonl ...]

Each line: ``{"options": [text, ...], "reply": text, "answer": "A"... or null}``; null where no single choice can be
read; options may be numbers, other fields are ignored. Prints each line that is read otherwise, and a total; exits 1
if there is any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, run_cli
from pipelines.evaluate.parsing.choice import MAX_OPTIONS, parse_choice


@dataclass(frozen=True)
class Reading:
    """A reply with its true reading.

    Attributes:
        where: ``file:line``.
        answer: a label, or None where no single choice can be read.
    """

    where: str
    options: tuple[str, ...]
    reply: str
    answer: str | None


def read_readings(path: str | Path) -> Iterator[Reading]:
    """Yield the readings of a file.

    Raises:
        UserError: the file cannot be read, or a line is not what it should be; names file, line and field.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; give a file of JSON lines with options, reply and answer"
        ) from error
    for number, raw in enumerate(content.split(b"\n"), start=1):
        if raw.strip():
            yield _reading(f"{path}:{number}", raw)


def _reading(where: str, raw: bytes) -> Reading:
    try:
        row: Any = json.loads(raw.decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{where}: not a line of JSON ({error}); one object a line is allowed") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}, but an object with options, reply and answer is needed")
    for name in ("options", "reply", "answer"):
        if name not in row:
            raise UserError(f"{where}: no field {name!r}; each line needs options, reply and answer")
    options, reply, answer = row["options"], row["reply"], row["answer"]
    if isinstance(options, list):
        options = [str(option) if type(option) in (int, float) else option for option in options]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UserError(f"{where}: options is {options!r}; a list of texts is needed")
    if not 1 <= len(options) <= MAX_OPTIONS:
        raise UserError(f"{where}: {len(options)} options; 1 to {MAX_OPTIONS} are allowed")
    if not isinstance(reply, str):
        raise UserError(f"{where}: reply is {reply!r}; a text is needed")
    labels = [chr(ord("A") + index) for index in range(len(options))]
    if answer is not None and answer not in labels:
        raise UserError(f"{where}: answer is {answer!r}; null or one of {', '.join(labels)} is needed")
    return Reading(where, tuple(options), reply, answer)


def main(argv: Sequence[str]) -> int:
    """Print what is read otherwise than stated; 1 if there is any."""
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0 if argv else 2
    readings = [reading for path in argv for reading in read_readings(path)]
    wrong = 0
    for reading in readings:
        label = parse_choice(reading.reply, reading.options)
        if label != reading.answer:
            wrong += 1
            print(
                f"{reading.where}: read {label}, not {reading.answer}: {json.dumps(reading.reply, ensure_ascii=False)}"
            )
    print(f"{wrong} of {len(readings)} replies mis-scored")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
