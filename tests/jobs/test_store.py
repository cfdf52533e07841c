"""`longvu store` over a small store of made-up numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path

import pytest

from jobs import probe, store
from pipelines.extract.plan import Member, Unit, write_plan
from pipelines.store import FeatureStore
from tests.pipelines.store.units import LONG, Source, commit, manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, a long one whose first part failed, and a file that is none."""
    made_with = manifest(config={"sampling": "fps:2", "decode.backend": "pyav", "decode.deadline_s": 60.0})
    folder = tmp_path / "features" / "test-000000000000"
    opened = FeatureStore.create(folder, made_with)
    commit(opened.uri, "u1", [Source("a", 40), Source("b", 9)], made_with)
    commit(opened.uri, "u2", [Source("bad", 0, status="failed")], made_with)
    parts = [dataclasses.replace(part, name="cut", frames=0, status="failed") for part in LONG]
    for number, part in enumerate(parts):
        commit(opened.uri, f"p{number}", [part], made_with)
    cut = Member("file:///cut.mp4", 1, "mtime:1", num_chunks=3, end_s=31.5)
    write_plan(opened.uri, "r", [Unit("u2", (Member("file:///bad.mp4", 1, "mtime:1"),)), Unit("p0", (cut,))])
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    code = store.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, (captured.err if code == 2 else captured.out).splitlines()


def test_ls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "ls", folder.parents[1])
    assert code == 0 and len(lines) == 2
    assert lines[1].split()[:6] == [str(folder), "2", "0", "2", "49", str(FeatureStore.open(folder).stats().stored)]
    assert run(capsys, "ls", folder)[1] == lines
    code, lines = run(capsys, "ls", folder / "videos")
    assert code == 2 and "no feature store there" in lines[0]


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "show", folder)
    shown = dict(line.split("  ", 1) for line in lines)
    assert code == 0
    assert shown["sources"].strip() == "ok 2, truncated 0, failed 2 (Corrupt 2)"
    assert shown["features"].strip() == "dinov2 6x10 float16"
    assert "5 by 1 runs; 5 not compacted" in shown["units"]
    for wanted in ("a-i", "/a.mp4"):
        code, lines = run(capsys, "show", folder, "--video", wanted)
        assert code == 0 and "source" in "".join(lines) and any(line.endswith("file:///a.mp4") for line in lines)
    code, lines = run(capsys, "show", folder, "--video", "zz")
    assert code == 2 and "zz: there is none" in lines[0]


def test_verify_compact_and_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", folder, "--deep") == (0, [run(capsys, "verify", folder)[1][-1]])
    assert run(capsys, "compact", folder) == (0, ["compacted 5 units into 1 files"])
    for path in folder.rglob("*"):
        os.utime(path, times=(0, 0))
    code, lines = run(capsys, "sweep", folder)
    assert code == 0 and len(lines) == 6 and lines[-1].endswith("with --yes does it")
    assert run(capsys, "sweep", folder, "--yes")[1][:5] == lines[:5]
    assert run(capsys, "sweep", folder)[1] == ["0 files, 0 B"]
    lost = next((folder / "frames").iterdir())
    lost.unlink()
    code, lines = run(capsys, "verify", folder)
    assert code == 1 and lines[0] == f"frames/{lost.name}: committed but missing" and lines[1].endswith("1 problems")


def test_quarantine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "quarantine", folder)
    assert code == 0
    assert [line.split() for line in lines[1:3]] == [
        ["Corrupt", "2", "/bad.mp4", "bad"],
        ["Corrupt", "2", "/cut.mp4", "bad"],
    ]
    commands = [shlex.split(line) for line in lines[3:]]
    options = [vars(probe.build_parser().parse_args(command[2:])) for command in commands]
    assert [option["source"] for option in options] == ["/bad.mp4", "/cut.mp4"]
    assert [(option["start_s"], option["end_s"]) for option in options] == [(None, None), (None, 31.5)]
    assert {option["deadline_s"] for option in options} == {60.0}
    code, lines = run(capsys, "quarantine", folder, "--json")
    assert [json.loads(line)["error"] for line in lines] == ["Corrupt", "Corrupt"]
    assert run(capsys, "quarantine", folder, "--log", "/bad.mp4") == (0, ["moov atom not found"])


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "show", tmp_path)
    assert code == 2 and "no feature store" in lines[0] and len(lines) == 1
    with pytest.raises(SystemExit) as ended:
        store.main(["sweep", str(tmp_path), "--grace-h", "-1"])
    assert ended.value.code == 2 and "a number of hours from 0 on" in capsys.readouterr().err
