"""Where a model folder comes from: which checkpoint of which training run. Other stages link to that run by it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from pipelines import storage

# Not JSON: the JSON files of a folder decide what its model computes, and this one does not.
_FILE = "provenance.yaml"


@dataclass(frozen=True)
class Provenance:
    """``checkpoint`` is the URI of the training checkpoint, ``mlflow_run`` the id of the run that made it."""

    checkpoint: str
    mlflow_run: str | None = None

    def write(self, folder: Path) -> None:
        (folder / _FILE).write_text(yaml.safe_dump(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Provenance | None:
        """None where a folder does not come from training here."""
        path = folder / _FILE
        return cls(**yaml.safe_load(path.read_text())) if path.is_file() else None


def checkpoint_uri(folder: Path) -> str:
    """What names a model folder in MLflow: the training checkpoint that it was exported from, or itself."""
    origin = Provenance.read(folder)
    return origin.checkpoint if origin else storage.resolve(folder)
