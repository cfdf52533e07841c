"""Answer fields of JSON, XML and tables, written as lines ``answer: value``.

The other fields of such a record (reasons, confidence, an echo of the options) are dropped: only the answer is one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.evaluate.parsing.vocabulary import is_answer_name

_ANSWER_TAG = re.compile(r"<\s*([A-Za-z_][\w-]*)((?:\s+[\w-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*)\s*(/?)>")
_REMARK_TAG = re.compile(
    r"<\s*(confidence|certainty|score|explanation|rationale|justification|evidence|comment|note)\s*>[^<>]*<\s*/\s*\1\s*>",
    re.I,
)
_ATTRIBUTE = re.compile(r"([\w-]+)\s*=\s*[\"']([^\"']*)[\"']")
_BRACES = re.compile(r"[{}]")
_PAIR = re.compile(r"[\"']([\w \-]+)[\"']\s*:\s*[\"']([^\"'\n]*)[\"']?")
_TABLE_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)*\|?[ \t]*$")
_TEXT_NAMES = {"text", "value", "content", "answertext", "optiontext", "label", "letter", "id"}


def fields_as_lines(text: str) -> str:
    """Return ``text`` with its records replaced by lines ``answer: value``."""
    text = _json_as_lines(text)
    text = _html_tables(text)
    text = _tags_as_lines(text)
    return _tables_as_lines(text)


def _json_as_lines(text: str) -> str:
    out, position = [], 0
    for start, end in _records(text):
        value = _load(text[start:end])
        if not isinstance(value, dict):
            continue
        out += [text[position:start], "\n", "\n".join(_lines_of(value)), "\n"]
        position = end
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not out and stripped[:1] in '["' and isinstance(value := _load(stripped), list | str):
        return "\n".join(_scalars(value))
    return "".join([*out, text[position:]])


def _records(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the outermost braces; an unclosed one reaches to the end."""
    depth, start = 0, 0
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            if depth == 0:
                start = brace.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                yield start, brace.end()
    if depth:
        yield start, len(text)


def _load(text: str) -> Any:
    for load in (json.loads, ast.literal_eval):
        try:
            return load(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    pairs = _PAIR.findall(text)
    return dict(pairs) if pairs else None


def _lines_of(record: dict[Any, Any]) -> list[str]:
    """Lines of a record: its answers, or the labels that it alone calls true."""
    answers: list[str] = []
    texts: list[str] = []
    for key, value in record.items():
        name = re.sub(r"[\W_]+", " ", str(key)).strip()
        if isinstance(value, dict):
            nested = _lines_of(value)
            if is_answer_name(name) and not any(line.startswith("answer") for line in nested):
                nested = ["answer: " + " ".join(line.split(": ", 1)[-1] for line in nested)]
            answers += [line for line in nested if not is_answer_name(name, plural=True) or line]
        elif is_answer_name(name):
            prefix = "final answer" if "final" in name.lower() else "answer"
            answers.append(f"{prefix}: " + ", ".join(_scalars(value)))
        elif name.replace(" ", "").lower() in _TEXT_NAMES:
            texts += _scalars(value)
    if answers:
        return [f"{answers[0]}. {texts[0]}", *answers[1:]] if len(answers) == 1 and texts else answers
    if texts:
        return ["answer: " + ". ".join(texts)]
    if all(isinstance(value, bool) for value in record.values()):
        return [f"{key}: {'✓' if value else '✗'}" for key, value in record.items()]
    if all(isinstance(value, str) for value in record.values()):
        return [f"{key}. {value}" for key, value in record.items() if len(str(key).strip()) == 1]
    return []


def _scalars(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple | set):
        return [text for part in value for text in _scalars(part)]
    if isinstance(value, dict):
        return [" ".join(_scalars(list(value.values())))]
    return [] if value is None else [str(value)]


def _tags_as_lines(text: str) -> str:
    """``<answer>B</answer>`` -> a line ``answer: B``; also ``<answer value="B"/>``."""

    def opened(tag: re.Match[str]) -> str:
        name = re.sub(r"[\W_]+", " ", tag[1])
        attributes = dict(_ATTRIBUTE.findall(tag[2] or ""))
        named = [value for key, value in attributes.items() if is_answer_name(key) or key in ("value", "id", "label")]
        if not is_answer_name(name):
            answers = [value for key, value in attributes.items() if is_answer_name(key)]
            return f"\nanswer: {answers[0]}\n" if answers else tag[0]
        prefix = "final answer" if "final" in name.lower() else "answer"
        return f"\n{prefix}: " + (f"{named[0]} " if named else "")

    text = _ANSWER_TAG.sub(opened, _REMARK_TAG.sub("\n", text))
    return re.sub(
        r"<\s*/\s*([A-Za-z_][\w-]*)\s*>",
        lambda tag: "\n" if is_answer_name(re.sub(r"[\W_]+", " ", tag[1])) else tag[0],
        text,
    )


def _html_tables(text: str) -> str:
    if not re.search(r"<\s*t[dhr]\b", text, re.I):
        return text
    text = re.sub(r"\s*<\s*/\s*t[dh]\s*>\s*<\s*t[dh]\b[^<>]*>\s*", " | ", text, flags=re.I)
    text = re.sub(r"<\s*t[dh]\b[^<>]*>\s*", "| ", text, flags=re.I)
    text = re.sub(r"\s*<\s*/\s*t[dh]\s*>", " |", text, flags=re.I)
    text = re.sub(r"<\s*/?\s*(?:table|tbody|thead)\b[^<>]*>", "\n", text, flags=re.I)
    return re.sub(r"<\s*/?\s*tr\b[^<>]*>", "\n", text, flags=re.I)


def _tables_as_lines(text: str) -> str:
    lines = text.split("\n")
    out: list[str] = []
    index = 0
    while index < len(lines):
        block = index
        while block < len(lines) and lines[block].count("|") >= (1 if block > index else 2):
            block += 1
        rows = [_cells(line) for line in lines[index:block] if not _TABLE_RULE.match(line)]
        if block - index >= 1 and rows and all(len(row) >= 1 for row in rows) and "|" in lines[index]:
            out += _table_lines(rows)
            index = block
        else:
            out.append(lines[index])
            index += 1
    return "\n".join(out)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _table_lines(rows: list[list[str]]) -> list[str]:
    """A column or a row headed by an answer word holds the answer; other rows are read as lines."""
    header = [is_answer_name(re.sub(r"[\W_]+", " ", cell).strip(), plural=False) for cell in rows[0]]
    if len(rows) > 1 and sum(header) >= 1 and any(len(row) > 1 for row in rows):
        final = [n for n, cell in enumerate(rows[0]) if "final" in cell.lower() and header[n]]
        strict = [n for n, cell in enumerate(rows[0]) if header[n] and is_answer_name(cell, strict=True)]
        column = (final or strict or [header.index(True)])[0]
        values = [row[column] for row in rows[1:] if column < len(row)]
        single = len(values) == 1 or (final or strict)
        if single and not (column == 0 and len(rows[0]) > 1 and len(values) > 1):
            return [f"answer: {value}" for value in values if value]
    if len(rows) == 2 and len(rows[0]) > 1 and all(len(cell) == 1 and cell.isalpha() for cell in rows[0]):
        return [f"{label}: {verdict}" for label, verdict in zip(*rows, strict=False)]
    lines = []
    for row in rows:
        name = re.sub(r"[\W_]+", " ", row[0]).strip()
        if len(row) > 1 and is_answer_name(name):
            lines.append(f"{'final answer' if 'final' in name.lower() else 'answer'}: {'. '.join(row[1:])}")
        else:
            lines.append(_row_line(row))
    return lines


def _row_line(row: list[str]) -> str:
    return row[0] + (". " if len(row[0]) == 1 else " - ") + " - ".join(row[1:]) if len(row) > 1 else row[0]
