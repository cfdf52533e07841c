"""The scripts behind the figures of training run, at a size that takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.gpu import train as gpu_train


def test_gpu_training_runs_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_train.main(["--smoke", "--peak-tflops", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["features", "online"]
    assert all("of the peak" in line for line in lines[1:])


def test_gpu_training_needs_nothing_of_the_dataflow() -> None:
    code = "import sys, tests.benchmarks.gpu.train; print({'ray', 'pyarrow', 'fsspec', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
