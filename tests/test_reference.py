"""``make docs``: the API reference is built from the docstrings of what others build on, without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.documents import ROOT


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "docs" / "reference.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("longvu_model", "pipelines/store", "pipelines/lineage", "pipelines/extract/stages"):
        assert (tmp_path / f"{page}.html").is_file()
    assert "LongVUForConditionalGeneration" in (tmp_path / "longvu_model.html").read_text()
    assert "threshold" in (tmp_path / "pipelines" / "store.html").read_text()
