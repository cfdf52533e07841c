"""Reports: complete, self-contained, and safe against what models and benchmarks say."""

from __future__ import annotations

import html.parser
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import print_tasks
from pipelines.config import load_config
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.plots import category_bars
from pipelines.evaluate.report import shown_score
from pipelines.evaluate.tasks.registry import task_names
from tests.pipelines.evaluate.conftest import run_against
from tests.pipelines.evaluate.scripted_endpoint import Scripted, ScriptedEndpoint, by_checksum, text_of

CONFIGS = Path(__file__).resolve().parents[3] / "jobs" / "configs"


class Page(html.parser.HTMLParser):
    """What a page loads from elsewhere, its ids, and what would run in it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href") and not str(value).startswith(("data:", "#")):
                self.outside.append(str(value))


def test_a_report_is_one_file_that_says_everything_and_runs_nothing(tmp_path: Path, small_benchmark: Path) -> None:
    def hostile(request: dict[str, Any]) -> Scripted:
        return Scripted("<script>alert(1)</script>") if "shape 1" in text_of(request) else by_checksum(request)

    with ScriptedEndpoint(hostile) as server:
        done = run_against(server.url, tmp_path, small_benchmark)
    folder = Path(done.results.uri.removeprefix("file://"))
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "&lt;script&gt;" in text and not page.outside
    assert len(page.ids) == len(set(page.ids)), "ids of figures do not collide"
    assert page.tags.count("svg") == 3, "two categories and the labels"
    score = shown_score("accuracy", done.results.summary["headline"])
    assert text.count(score) >= 2 and "unparsed" in text and server.url in text
    markdown = (folder / "report.md").read_text()
    assert score in markdown and "| causal |" in markdown and "clustered by video" in markdown


def test_scores_as_people_read_them() -> None:
    assert shown_score("accuracy", {"value": 0.6123, "se": 0.031}) == "61.2 ± 3.1 %"
    assert shown_score("rating", {"value": 7.314, "se": 0.2}) == "7.31 ± 0.20"
    assert shown_score("rating", {"value": 10.0, "se": 0.0}) == "10.00"
    assert shown_score("accuracy", {"value": None}) == "–"


def test_a_figure_is_the_same_every_time() -> None:
    entry = {"value": 0.5, "se": 0.05, "ci95": (0.4, 0.6), "n": 100, "clusters": 50}
    figures = [category_bars("by <length>", {"short & long": entry}, True, 0.25) for _ in range(2)]
    assert figures[0] == figures[1] and "short &amp; long" in figures[0] and "by &lt;length>" in figures[0]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("eval_*.yaml")), ids=lambda path: path.name)
def test_shipped_settings_are_valid(path: Path) -> None:
    assert load_config(EvaluateConfig, path, ["task=nextqa", "data=somewhere"]).task == "nextqa"


def test_every_benchmark_is_listed_with_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    print_tasks()
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in task_names()) and out.count("Source: ") == len(task_names())
