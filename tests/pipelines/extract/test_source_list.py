"""Lists of sources in every format, with the irregularities of published annotation files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract import source_list
from pipelines.extract.index import index_sources
from pipelines.extract.source_list import listed_names

ANNOTATIONS: list[dict[str, Any]] = [
    {"id": "1", "image": "coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]},
    {"id": 2, "image": ["set/a.png", "set/b.png"], "conversations": []},
    {"id": "text", "model": "", "conversations": []},
    {"id": None, "video": "clips/v ü.mp4", "source": "invented", "conversations": []},
    *({"id": 4, "image": nothing} for nothing in (None, "", "None", "none", "nan", float("nan"), [])),
    {"id": 5, "image": "", "video": "s3://bucket/v.mp4"},
    {"id": 6, "video": "clips/v ü.mp4"},
]
NAMED = [
    ("image", "/data/coco/1.jpg"),
    ("image", "/data/set/a.png"),
    ("image", "/data/set/b.png"),
    ("video", "/data/clips/v ü.mp4"),
    ("video", "s3://bucket/v.mp4"),
    ("video", "/data/clips/v ü.mp4"),
]


def named(path: Path, **options: str) -> list[tuple[str, str]]:
    return [(column, storage.shown(uri)) for column, uri in listed_names(storage.resolve(path), **options)]


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_annotations_are_read_as_published(tmp_path: Path, indent: int | None, mark: str) -> None:
    path = write(tmp_path / "rows.json", mark + "\n" + json.dumps(ANNOTATIONS, indent=indent, ensure_ascii=False))
    assert named(path, media_root="/data") == NAMED


def test_json_lines_may_bear_either_suffix(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, ANNOTATIONS)) + "\n\n"
    for name in ("rows.jsonl", "rows.json"):
        assert named(write(tmp_path / name, lines), media_root="/data") == NAMED


def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = write(tmp_path / "rows.json", json.dumps(ANNOTATIONS, ensure_ascii=False))
    lines = write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, ANNOTATIONS)))
    for block in (1, 2, 3, 5, 7, 64):
        monkeypatch.setattr(source_list, "_BLOCK_CHARS", block)
        assert named(listed, media_root="/data") == named(lines, media_root="/data") == NAMED


def test_tables(tmp_path: Path) -> None:
    csv = 'caption,path,width\n"two\nlines, quoted",a.mp4,1\nb,"b, c.mp4",2\nnone,,3\n'
    wanted = [("path", f"{tmp_path}/a.mp4"), ("path", f"{tmp_path}/b, c.mp4")]
    assert named(write(tmp_path / "rows.csv", csv)) == wanted
    tsv = "path\ta b\n001.mp4\t1\n2.mp4\t2\n"
    assert named(write(tmp_path / "rows.tsv", tsv)) == [("path", f"{tmp_path}/{n}") for n in ("001.mp4", "2.mp4")]
    columns = {"uri": ["other"] * 3, "image": [["a.png", "b.png"], None, []], "video": [None, "c.mp4", "nan"]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    wanted = [("image", "/r/a.png"), ("image", "/r/b.png"), ("video", "/r/c.mp4")]
    assert sorted(named(tmp_path / "rows.parquet", media_root="/r")) == wanted
    assert {name for name, _ in named(tmp_path / "rows.parquet", column="uri")} == {"uri"}


def test_empty_lists_name_nothing(tmp_path: Path) -> None:
    for name, content in (("a.csv", ""), ("b.json", ""), ("c.json", "[]"), ("d.jsonl", "\n"), ("e.txt", "# x\n")):
        assert named(write(tmp_path / name, content)) == []


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "a.csv",
            "clip,start\nx.mp4,1\n",
            r"a\.csv: no column video, image, .*; it has: clip, start; .*source_column=",
        ),
        ("a.json", '[{"clip": "x.mp4", "id": 1}]', r"a\.json: no column .*; it has: clip, id;"),
        ("a.csv", "video,start\nx.mp4,1\ny.mp4\n", r"a\.csv: cannot be read \(CSV parse error: .*2 columns, got 1"),
        ("a.json", '[{"video": "x.mp4"},\n{"video": nope}]', r"not valid JSON at row 2, character 31: Expecting value"),
        ("a.json", '[{"video": "x.mp4"}, {"vid', r"not valid JSON at row 2, .*Unterminated string"),
        ("a.json", '[{"video": "x.mp4"}', r"not valid JSON at row 2, character 19: the list is cut short"),
        ("a.jsonl", '{"video": 7}', r"a\.jsonl: row 1: holds int, not the name of a file"),
        ("a.json", '[{"image": {"bytes": null, "path": "x"}}]', r"row 1: holds bytes beside a path"),
        ("a.txt", "x.mp4\nhttps://host/y.mp4\n", r"a\.txt: row 2: 'https://host/y\.mp4' is neither"),
        ("a.csv", b"video\n\xff.mp4\n", r"a\.csv: cannot be read \(.*UTF8"),
        ("a.json", b'[{"video": "\xff"}]', r"a\.json: is no UTF-8 text"),
        ("a.parquet", b"PAR0", r"a\.parquet: cannot be read \("),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: str | bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=complaint):
        named(tmp_path / name)


def test_a_named_column_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "clip,video\nx.mp4,y\n")
    assert named(path, column="clip") == [("clip", f"{tmp_path}/x.mp4")]
    with pytest.raises(UserError, match=r"no column source_column=vidoe; it has: clip, video"):
        named(path, column="vidoe")


def test_listed_media_become_sources_once(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.jpg", "c.gif", "d.gif"):
        (tmp_path / name).write_bytes(b"x")
    rows = [{"video": "a.mp4"}, {"image": "b.jpg"}, {"video": "c.gif"}, {"image": "d.gif"}, {"video": "./a.mp4"}]
    path = write(tmp_path / "rows.json", json.dumps([*rows, {"image": "gone"}]))
    kinds = {storage.shown(item.uri): item.kind for item in index_sources(str(path))}
    assert kinds == {
        f"{tmp_path}/{name}": kind
        for name, kind in (
            ("a.mp4", "video"),
            ("b.jpg", "image"),
            ("c.gif", "video"),
            ("d.gif", "image"),
            ("gone", "image"),
        )
    }
