"""The needle's vectors: a compact copy in the tree; every quantity of them can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.__main__ import main
from tests.golden.niavh import check

VECTORS = Path(__file__).parent / "vectors/niavh"


def test_every_run_matches() -> None:
    results = list(check(VECTORS))
    assert len(results) == 4
    assert [f"{result.name}: {result.detail}" for result in results if not result.passed] == []


def test_runner_takes_the_folder() -> None:
    assert main([str(VECTORS)]) == 0


def change(run: dict[str, Any], *path: Any) -> None:
    *places, last = path
    for place in places:
        run = run[place]
    run[last] = "another" if isinstance(run[last], str) else run[last] + 1


@pytest.mark.parametrize(
    "path",
    [
        ("context_lengths", 1),
        ("depth_percents", 1),
        ("insertion_points", 0, 1),
        ("num_cells",),
        ("model_prompt",),
        ("operations", 1, 1, 1, "fontsize"),
        ("operations", 1, 1, 1, "start"),
        ("operations", 2, 1),
        ("files", 0),
        ("results", 0, "score"),
        ("results", 0, "file_name"),
        ("mean_score",),
        ("pivot", "values", 0, 0),
    ],
    ids=str,
)
def test_a_wrong_vector_fails(path: tuple[Any, ...], tmp_path: Path) -> None:
    runs = json.loads((VECTORS / "grid.json").read_text())
    change(runs["small_text"], *path)
    (tmp_path / "grid.json").write_text(json.dumps(runs))
    failed = [result.name for result in check(tmp_path) if not result.passed]
    assert failed == ["niavh/small_text"]
