"""Every quick start, command by command, in a folder that holds two videos and a file of questions about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks, run_block
from tests.faults.s3_server import free_port
from tests.pipelines.conftest import write_video

PAGE = ROOT / "docs" / "quickstarts.md"
STARTS = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
TESTED = [text for tested, _, text in blocks(PAGE) if tested]
MOST_COMMANDS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstarts")
    write_video(folder / "videos" / "kitchen.mp4", [7, 5], seed=1)
    write_video(folder / "videos" / "street.mp4", [6], seed=2)
    [(_, _, questions)] = blocks(PAGE, "json")
    (folder / "qa.json").write_text(questions)
    return folder


def test_each_is_one_block_of_few_commands() -> None:
    assert len(TESTED) == len(STARTS) == 4
    assert all(len(text.strip().splitlines()) <= MOST_COMMANDS for text in TESTED)


@pytest.mark.parametrize("number", range(len(TESTED)), ids=STARTS)
def test_it_runs(number: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later ones use what earlier ones made."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_block("bash", TESTED[number].replace("8000", str(free_port())), home)
