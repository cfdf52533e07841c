"""The summary: the same facts as plain lines and as a table."""

from __future__ import annotations

import dataclasses
import io

from pipelines.extract.report import Cause, ExtractReport, StageSpeed

REPORT = ExtractReport(
    store="file:///store",
    sources=20,
    statuses={"ok": 17, "truncated": 1, "failed": 2},
    causes=(Cause("NotAVideo", 12, "'/v/a.mp4': is no video"), Cause("Missing", 1, "/v/b.mp4: gone")),
    sampled=1000,
    kept=250,
    stored=300,
    seconds=12.34,
    next_command="longvu ask",
    max_failed_fraction=0.1,
    new_units=3,
    stages=(StageSpeed("decode", 1000, busy_s=5.0, actors=2, achieved=100.0),),
    notes={"batches halved": 3},
    tracked="sqlite:///db run 1",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(report: ExtractReport, out: io.StringIO) -> str:
    report.print(out)
    return out.getvalue()


def test_plain_lines() -> None:
    text = printed(REPORT, io.StringIO())
    for line in (
        "extracted 20 sources in 12.3 s",
        "sources  ok 17  truncated 1  failed 2",
        "frames   sampled 1000  kept 250 (25.0%)  with features 300",
        "decode    1000    5.00       2             400.0         100.0  4.0x",
        "NotAVideo       12  '/v/a.mp4': is no video",
        "Missing          1  /v/b.mp4: gone",
        "failed   longvu store quarantine /store",
        "note     batches halved: 3",
        "store    /store",
        "mlflow   sqlite:///db run 1",
        "next     longvu ask",
    ):
        assert line in text.splitlines(), text


def test_table_on_a_terminal() -> None:
    text = printed(REPORT, Terminal())
    assert "┃" in text and "400.0" in text and "4.0x" in text


def test_exit_code_follows_the_limit() -> None:
    assert REPORT.exit_code == 0
    over = dataclasses.replace(REPORT, max_failed_fraction=0.09)
    assert over.exit_code == 3
    assert "2 of 20 sources failed" in printed(over, io.StringIO())


def test_nothing_done_and_unfinished() -> None:
    idle = dataclasses.replace(REPORT, new_units=0, stages=(), tracked=None)
    assert printed(idle, io.StringIO()).startswith("nothing to do: all 20 sources")
    short = dataclasses.replace(REPORT, statuses={"ok": 10, "truncated": 0, "failed": 0}, causes=())
    assert "unfinished 10" in printed(short, io.StringIO())
