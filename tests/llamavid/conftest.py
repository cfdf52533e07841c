"""The tiny preset, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from longvu_model.presets import build_preset


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the tiny preset."""
    return build_preset("tiny_llamavid", tmp_path_factory.mktemp("presets") / "tiny_llamavid")
