"""Rows of JSON lists, JSON lines and YAML lists, streamed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.train import annotations
from pipelines.train.annotations import AnnotationFile, annotation_files, json_records, read_rows

ROWS = [{"id": number, "text": f'row {number} ünïcode \n" [,]}}'} for number in range(30)]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
objects = st.lists(st.dictionaries(st.text(max_size=3), values, max_size=4), max_size=6)


def records(text: str) -> list[dict[str, Any]]:
    return list(json_records(io.StringIO(text), "rows.json"))


@given(objects, st.sampled_from([None, 1, "\t"]), st.integers(1, 40), st.booleans())
def test_streaming_equals_the_json_module(
    rows: list[dict[str, Any]], indent: int | str | None, chunk: int, lines: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "_CHUNK_CHARS", chunk)
        text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=indent)
        assert records(f" \n{text}\n") == rows


@pytest.mark.parametrize(
    ("text", "row", "byte", "problem"),
    [
        ('[{"a": 1}, {"b": }]', 1, 17, "Expecting value"),
        ('[{"ä": 1} {"b": 2}]', 1, 11, "a comma or ] is missing"),
        ('[{"a": 1}', 1, 9, "not closed"),
        ('[{"a": 1}, 7]', 1, 11, "must be an object"),
        ('[{"a": 1}] []', 1, 11, "after the end"),
        ('{"a": 1}\n{"b"', 1, 13, "Expecting ':'"),
        ("no json", 0, 0, "must be an object"),
    ],
)
def test_invalid_json_is_named_by_row_and_byte(text: str, row: int, byte: int, problem: str) -> None:
    with pytest.raises(UserError, match=f"rows.json: row {row}, byte {byte}: .*{problem}"):
        records(text)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", list(range(30))),
        ("first:3", [0, 1, 2]),
        ("first:10%", [0, 1, 2]),
        ("first:11%", [0, 1, 2, 3]),
        ("end:2", [28, 29]),
        ("end:0.1%", [29]),
        ("first:99", list(range(30))),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_a_strategy_counts_in_the_order_of_the_file(
    tmp_path: Path, strategy: str, expected: list[int], lines: bool
) -> None:
    path = tmp_path / "rows.json"
    text = "\n".join(map(json.dumps, ROWS)) if lines else json.dumps(ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte-order mark
    found = list(read_rows(AnnotationFile(f"file://{path}", "file:///", strategy)))
    assert [number for number, _ in found] == expected
    assert [record for _, record in found] == [ROWS[number] for number in expected]


def test_a_random_part_is_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    parts = [[n for n, _ in read_rows(AnnotationFile(f"file://{path}", "", "random:40%"))] for _ in range(2)]
    assert parts[0] == parts[1] == sorted(set(parts[0]))
    assert len(parts[0]) == 12
    assert parts[0] != list(range(12))


def test_a_yaml_list_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.json").write_text("[]")
    (tmp_path / "b.jsonl").write_text("")
    listed = tmp_path / "list.yaml"
    listed.write_text(
        "datasets:\n  - json_path: parts/a.json\n    sampling_strategy: 'first:10%'\n  - json_path: b.jsonl\n"
    )
    files = annotation_files(str(listed), str(tmp_path / "media"))
    assert [(file.uri.removeprefix(f"file://{tmp_path}/"), file.strategy) for file in files] == [
        ("parts/a.json", "first:10%"),
        ("b.jsonl", "all"),
    ]
    assert {file.media for file in files} == {f"file://{tmp_path}/media"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: 3", "must be YAML with datasets"),
        ("datasets: [{path: a.json}]", "must be YAML with datasets"),
        ("datasets: [", "must be YAML with datasets"),
        ("datasets: [{json_path: gone.json}]", "names .*gone.json, which is not there"),
        (
            "datasets: [{json_path: a.json, sampling_stratgy: all}]",
            "unknown key 'sampling_stratgy' .* sampling_strategy",
        ),
        ("datasets: [{json_path: a.json, sampling_strategy: some}]", "sampling_strategy 'some': use all, first:N"),
        ("datasets: [{json_path: a.json, sampling_strategy: 'first:1.5'}]", "sampling_strategy 'first:1.5'"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        annotation_files(str(tmp_path / "list.yaml"), str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.json: no such file"):
        annotation_files(str(tmp_path / "gone.json"), str(tmp_path))


def test_a_row_larger_than_a_chunk_is_read(tmp_path: Path) -> None:
    rows = [{"text": "x" * (3 << 20)}, {"text": "y"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [record for _, record in read_rows(AnnotationFile(f"file://{tmp_path}/rows.json", ""))] == rows
