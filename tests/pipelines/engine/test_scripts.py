"""The figures' scripts run and find answers equal, at a size that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import serve_engine

ROOT = Path(__file__).resolve().parents[3]
ABSENT = ("decord", "fsspec", "mlflow", "pyarrow", "pydantic", "ray")


def test_gpu_script_needs_the_model_alone() -> None:
    """On the CPU, in a process in which the dataflow's packages cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from tests.benchmarks.gpu import serve\n"
        "raise SystemExit(serve.main(['--smoke']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "answers among others the same" in done.stdout
    assert "positions reused" in done.stdout


def test_engine_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = ["--seconds", "60", "--questions", "3", "--clients", "3", "--tokens", "4", "--rounds", "1"]
    serve_engine.main([*small, "--directory", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("same tokens" in line for line in lines) == 5
    assert not any("OTHER TOKENS" in line for line in lines)
    assert any("0 decoder and 0 tower calls" in line for line in lines)
