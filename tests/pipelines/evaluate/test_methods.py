"""Methods side by side: a point is an evaluation, the baseline has each method's budget, files say what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.methods import main
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.evaluate.methods import FIGURE, POINTS, TABLE


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    config = CorpusConfig(
        num_videos=2, seconds=26, width=64, height=64, fps=2, scenes=(1,), needle_seconds=(1.0, 1.2),
        kinds=("colour",), answer_form="text",
    )  # fmt: skip
    write_corpus(folder / "corpus", config)
    return folder / "corpus"


def test_points_table_and_plot(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models.ours=tiny", "models.pairs=tiny_llamavid", f"data={corpus}"]
    words += [f"output={tmp_path}", f"workdir={tmp_path}"]
    assert main(["--in-process", *words]) == 0
    told = capsys.readouterr().out
    points: list[dict[str, Any]] = json.loads((tmp_path / "methods" / POINTS).read_text())
    by_method = {point["method"]: point for point in points if not point["beside"]}
    assert set(by_method) == {"ours", "pairs"}
    # two tokens for each second
    assert by_method["pairs"]["tokens"] == 52 and by_method["pairs"]["kept"] == 26
    assert by_method["pairs"]["tokens_per_minute"] == pytest.approx(120, rel=0.02)
    uniform = {point["beside"]: point for point in points if point["beside"]}
    assert set(uniform) == {"ours fps:1", "pairs fps:1", "one frame"}
    one_frame = uniform["one frame"]["tokens"]
    for name, point in by_method.items():
        beside = uniform[f"{name} fps:1"]
        assert abs(beside["tokens"] - point["tokens"]) <= one_frame
        assert beside["frames"].startswith("uniform:")
    assert all(point["questions"] == 2 for point in points)
    table = (tmp_path / "methods" / TABLE).read_text()
    assert table.count("\n| ") == 6 and "The same 2 questions for all." in table
    assert (tmp_path / "methods" / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert "tokens per minute" in told and "pairs" in told
    # again: nothing is asked, the same is written
    assert main(["--in-process", *words]) == 0
    assert json.loads((tmp_path / "methods" / POINTS).read_text()) == points
    assert "to ask" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models.ours=no-such-model"], "no-such-model"),
        (["models.pairs=tiny_llamavid"], "baseline=None: give one of models (pairs)"),
        (["models.ours=tiny", "baseline=theirs"], "baseline=theirs: give one of models (ours)"),
        ([], "models"),
    ],
)
def test_mistakes_are_named(
    words: list[str], message: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--in-process", f"data={corpus}", f"output={tmp_path}", f"workdir={tmp_path}", *words]) == 2
    assert message in capsys.readouterr().err
