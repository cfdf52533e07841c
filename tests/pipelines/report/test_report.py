"""The page shows what the run left, nothing else, and needs no other file."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.report import write_report


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] != "style":
            self.text += data

    def classes(self, tag: str, name: str) -> int:
        return sum(found == tag and name in (values.get("class") or "").split() for found, values in self.tags)


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Page:
    return Page(write_report(run_folder).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    for tag, values in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href", "xlink:href"):
            value = values.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)


def test_every_sampled_frame_is_there_and_the_needle_is_marked_when_it_is_seen(page: Page, run_folder: Path) -> None:
    row = json.loads((run_folder / "conversation.json").read_text())["row"]
    needle = row["needle"]
    seen = [second for second in range(42) if needle["start_s"] <= second < needle["end_s"]]
    pictures = [values for tag, values in page.tags if tag == "img"]
    film = [values.get("class") or "" for values in pictures if values.get("alt") == ""]
    assert len(film) == 42
    assert [second for second, name in enumerate(film) if "needle" in name] == seen
    assert page.classes("figure", "needle") == len(seen) > 0
    assert len(pictures) - 42 == sum("on" in name.split() for name in film)
    assert f"a {needle['colour']} {needle['shape']}" in page.text


def test_numbers_are_those_of_the_artifacts(page: Page) -> None:
    assert "LongVU answered 75.0 ± 10.0 % of 4 questions" in page.text
    assert "7 frames, spread evenly instead answered 25.0 ± 10.0 %" in page.text
    assert "280 visual tokens" in page.text and "Guessing would give 12.5 %" in page.text
    assert "1.50 s" in page.text and "50 ms" in page.text
    assert "321 frames/s" in page.text and "decode 900, encode 457 frames/s" in page.text
    assert "1,250 tokens/s without waiting for data" in page.text
    assert "87.5 % of the answers" in page.text
    assert "1/2" in page.text and "2/2" in page.text  # cells of the map
    assert "2.2 min" in page.text and "2.4 min" in page.text
    assert "sqlite:///" in page.text


def test_what_was_said_is_text_not_markup(page: Page) -> None:
    assert "Which <b>shape</b>?" in page.text
    assert "mauve" in page.text


def test_ids_of_figures_do_not_collide(run_folder: Path) -> None:
    html = (run_folder / "report.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert html.count("<svg") == 5
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_what_is_missing_says_so(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "train", tmp_path / "train")
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("This run folder does not have it (yet).") == 5
    assert "No evaluation in this folder." in page.text
    assert page.text.count("MLflow has no losses of this run.") == 2
    assert "No stage was recorded" in page.text
    assert "%" not in page.text.split("Look further")[0]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no feature store, training or evaluation"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
