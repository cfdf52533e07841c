"""The model against reference vectors: the compact part in the tree, and the whole set where it is present."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.golden import longvu
from tests.golden.__main__ import main

COMPACT = Path(__file__).parent / "vectors/longvu"
WHOLE = Path(__file__).resolve().parents[2].parent / "shared/golden/longvu"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(COMPACT, id="compact"),
        pytest.param(WHOLE, id="whole", marks=pytest.mark.skipif(not WHOLE.is_dir(), reason="vectors not beside us")),
    ],
)
def test_every_case_matches(folder: Path) -> None:
    results = list(longvu.check(folder))
    assert len(results) > 100
    assert [f"{result.name}: {result.detail}" for result in results if not result.passed] == []


def test_runner_fails_on_a_wrong_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("models/qwen_small", "e2e"):
        shutil.copytree(COMPACT / part, tmp_path / part)
    for path in (tmp_path / "e2e").iterdir():
        if path.stem != "vid_negative_budget":
            path.unlink()
    assert main([str(tmp_path)]) == 0

    tensors = load_file(tmp_path / "e2e/vid_negative_budget.safetensors")
    tensors["inputs_embeds"][0, 3, 0] += 1e-3
    save_file(tensors, tmp_path / "e2e/vid_negative_budget.safetensors")
    capsys.readouterr()
    assert main([str(tmp_path)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_runner_goes_on_after_a_broken_case(tmp_path: Path) -> None:
    for part in ("models/stage1", "e2e"):
        shutil.copytree(COMPACT / part, tmp_path / part)
    for path in (tmp_path / "e2e").iterdir():
        if not path.stem.startswith("stage1"):
            path.unlink()
    (tmp_path / "e2e/stage1_img.safetensors").write_bytes(b"cut")
    results = {result.name: result for result in longvu.check(tmp_path)}
    assert not results["e2e/stage1_img"].passed and "Error" in results["e2e/stage1_img"].detail
    assert results["e2e/stage1_video_stc"].passed


def test_runner_refuses_another_folder(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2
