"""How far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pipelines.extract.dataflow import UnitReport

_LINE_EVERY_S = 10.0


class Progress:
    """Shows committed units and frames on stderr while the ``with`` block runs."""

    def __init__(self, num_units: int):
        self._num_units = num_units
        self._done = self._frames = self._failed = 0
        self._started_s = self._shown_s = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("units"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("starting", total=self._num_units)
            self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, unit: UnitReport) -> None:
        """Count a committed unit."""
        self._done += 1
        self._frames += unit.counts["sampled"]
        self._failed += unit.counts["failed"]
        now_s = time.monotonic()
        rate = self._frames / max(now_s - self._started_s, 1e-9)
        text = f"{self._frames} frames, {rate:.1f} frames/s, {self._failed} failed"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=text)
        elif now_s - self._shown_s >= _LINE_EVERY_S:
            self._shown_s = now_s
            print(f"units {self._done}/{self._num_units}  {text}", file=sys.stderr, flush=True)
