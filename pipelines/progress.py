"""How far a run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

_LINE_EVERY_S = 10.0


class Progress:
    """Shows on stderr how many of ``total`` things are done, while the ``with`` block runs."""

    def __init__(self, things: str, total: int):
        self._things, self._total = things, total
        self._done = 0
        self._started_s = self._shown_s = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn(self._things), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return max(time.monotonic() - self._started_s, 1e-9)

    def add(self, description: str = "", count: int = 1) -> None:
        """``count`` more are done; ``description`` says more about all of them so far."""
        self._done += count
        now_s = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=description)
        elif now_s - self._shown_s >= _LINE_EVERY_S:
            self._shown_s = now_s
            print(f"{self._things} {self._done}/{self._total}  {description}".rstrip(), file=sys.stderr, flush=True)
