"""LLaMA-VID against reference vectors: the compact part in the tree, and the whole set where it is present."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.golden import llamavid

COMPACT = Path(__file__).parent / "vectors/llamavid"
WHOLE = Path(__file__).resolve().parents[2].parent / "shared/golden/llamavid"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(COMPACT, id="compact"),
        pytest.param(WHOLE, id="whole", marks=pytest.mark.skipif(not WHOLE.is_dir(), reason="vectors not beside us")),
    ],
)
def test_every_case_matches(folder: Path) -> None:
    assert llamavid.recognises(folder)
    results = list(llamavid.check(folder))
    assert len(results) > 40
    assert [f"{result.name}: {result.detail}" for result in results if not result.passed] == []


def test_a_wrong_vector_fails(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    shutil.copytree(COMPACT, folder)
    tensors = load_file(folder / "vit_A.safetensors")
    tensors["out.features"][0, 3, 0] += 1e-3
    save_file(tensors, folder / "vit_A.safetensors")
    failed = [result.name for result in llamavid.check(folder) if not result.passed]
    assert failed == ["vit_A"]
