"""A workdir's MLflow database without the second and a half of computing that MLflow makes one with."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.tracking.server import connected


def write_database(workdir: Path) -> None:
    """Lay a database without runs into a workdir that has none, as MLflow itself would on first use."""
    path = workdir / "mlflow.db"
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_made_by_mlflow())


@functools.cache
def _made_by_mlflow() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        connected(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()
