"""The text side matches the reference vectors, and the checks notice when it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.golden.result import Result
from tests.golden.text_checks import check_preprocess, check_text, check_train_collation

COMPACT = Path(__file__).parent / "vectors"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "longvu"
Check = Callable[[Path], Iterator[Result]]


@pytest.mark.parametrize(("check", "cases"), [(check_text, 40), (check_preprocess, 3), (check_train_collation, 9)])
def test_compact_vectors(check: Check, cases: int) -> None:
    results = list(check(COMPACT))
    assert [result for result in results if not result.passed] == []
    assert len(results) == cases


@pytest.mark.skipif(not SHARED.is_dir(), reason="the full reference vectors are not here")
@pytest.mark.parametrize("check", [check_text, check_preprocess, check_train_collation])
def test_full_vectors(check: Check) -> None:
    results = list(check(SHARED))
    assert [result for result in results if not result.passed] == []
    assert len(results) > 0


def _edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _edit_tensor(path: Path, key: str, edit: Callable[[Any], None]) -> None:
    tensors = load_file(path)
    edit(tensors[key])
    save_file(tensors, path)


def _wrong_prompt_id(folder: Path) -> None:
    _edit_json(folder / "text/prompts.json", lambda c: c["prompts"][0]["input_ids"].__setitem__(3, 1))


def _wrong_slot(folder: Path) -> None:
    _edit_json(folder / "text/prompts.json", lambda c: c["tokenizer_image_token"][1]["ids"].reverse())


def _wrong_label(folder: Path) -> None:
    _edit_json(folder / "text/labels.json", lambda c: c[0]["labels"].__setitem__(0, -100))


def _wrong_stop(folder: Path) -> None:
    _edit_json(folder / "text/stopping.json", lambda c: c[0].update(stop=False))


def _wrong_pixel(folder: Path) -> None:
    path = folder / "preprocess/process_images.safetensors"
    _edit_tensor(path, "dino_0", lambda t: t[0, 0, 0].add_(2e-6))


def _wrong_length(folder: Path) -> None:
    _edit_json(folder / "train/qwen_small.json", lambda c: c["modality_lengths"].reverse())


def _wrong_item(folder: Path) -> None:
    _edit_json(folder / "train/qwen_small.json", lambda c: c["items"][0]["image_size"].reverse())


def _wrong_mask(folder: Path) -> None:
    path = folder / "train/qwen_small/two_images.safetensors"
    _edit_tensor(path, "attention_mask", lambda t: t[0, 0].logical_not_())


def _wrong_position(folder: Path) -> None:
    path = folder / "train/qwen_small/image_and_long_text.safetensors"
    _edit_tensor(path, "position_ids", lambda t: t[1, 95].add_(1))


@pytest.mark.parametrize(
    ("check", "spoil", "name"),
    [
        (check_text, _wrong_prompt_id, "text/prompts/qwen/one_turn"),
        (check_text, _wrong_slot, "text/slots/qwen/1"),
        (check_text, _wrong_label, "text/labels/qwen/two_turn_video"),
        (check_text, _wrong_stop, "text/stopping/qwen/0"),
        (check_preprocess, _wrong_pixel, "preprocess/0"),
        (check_train_collation, _wrong_length, "train/qwen_small/lengths"),
        (check_train_collation, _wrong_item, "train/qwen_small/item/0"),
        (check_train_collation, _wrong_mask, "train/qwen_small/collate/two_images"),
        (check_train_collation, _wrong_position, "train/qwen_small/collate/image_and_long_text"),
    ],
)
def test_checks_name_the_case_that_fails(
    tmp_path: Path, check: Check, spoil: Callable[[Path], None], name: str
) -> None:
    folder = tmp_path / "vectors"
    shutil.copytree(COMPACT, folder)
    spoil(folder)
    assert [result.name for result in check(folder) if not result.passed] == [name]
