"""A log of what was really learned: a line per step and worker, for those who have to account for it.

Unlike MLflow's record, it also has the steps that were done and lost when a worker was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Audit:
    """Appends to ``<folder>/<start>-<rank>.jsonl``.

    Args:
        folder: None for no log.
        start: name of this start of the job.
    """

    def __init__(self, folder: str | None, start: str, rank: int) -> None:
        self._file = None
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file = (Path(folder) / f"{start}-{rank:05d}.jsonl").open("a")

    def add(self, cursor: int, epoch: int, loss: float, samples: Sequence[int], learned: bool) -> None:
        """One step: samples are rows of the manifest, ``loss`` that of the global batch."""
        if self._file is not None:
            line: dict[str, Any] = {"cursor": cursor, "epoch": epoch, "loss": loss, "learned": learned}
            self._file.write(json.dumps(line | {"samples": list(samples), "time_s": time.time()}) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
