"""Who may import whom: the model knows nothing of the dataflow, and stages never import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for top in ("longvu_model", "pipelines", "jobs") for path in (ROOT / top).rglob("*.py"))
DATAFLOW = {"ray", "mlflow", "pyarrow", "fsspec", "s3fs", "boto3", "pydantic", "yaml", "pipelines", "jobs"}
STAGES = {"extract", "train", "evaluate", "serve"}


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names that a file imports, at any depth: `from a.b import c` gives `a.b.c`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def broken_rules(path: Path) -> Iterator[str]:
    here = path.relative_to(ROOT).with_suffix("").parts
    for name in imported(path):
        parts = name.split(".")
        if here[0] == "longvu_model" and parts[0] in DATAFLOW:
            yield f"longvu_model must run without {parts[0]}"
        if parts[0] == "jobs" and here[0] != "jobs":
            yield f"{name}: nothing imports jobs"
        if parts[0] == "mlflow" and here[:2] != ("pipelines", "tracking"):
            yield "mlflow is imported in pipelines/tracking only"
        other_stage = parts[0] == "pipelines" and len(parts) > 1 and parts[1] in STAGES and parts[1] not in here[1:2]
        if here[0] == "pipelines" and other_stage:
            yield f"{name}: stages never import each other; put what they share beside them"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_rules(path: Path) -> None:
    assert not list(broken_rules(path))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("longvu_model/x.py", "def f():\n    import ray.data"),
        ("longvu_model/video/x.py", "from pipelines.config import Config"),
        ("pipelines/extract/x.py", "import mlflow"),
        ("pipelines/extract/x.py", "from ..train import plan"),
        ("pipelines/store/x.py", "from pipelines.extract.plan import Unit"),
        ("pipelines/x.py", "from jobs import cli"),
    ],
)
def test_the_rules_catch(file: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert list(broken_rules(path))
