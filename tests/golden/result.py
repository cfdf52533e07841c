"""One line of the golden report, and how values are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """Outcome of one case."""

    name: str
    max_relative_error: float
    passed: bool
    detail: str = ""
    excluded: bool = False
    """The folder says that rounding or a tie decides, so it was not compared; ``detail`` says what."""


@dataclass
class Comparison:
    """Collects the comparisons of one case.

    The relative error of a tensor is its largest absolute difference over its largest absolute reference value.
    """

    name: str
    max_relative_error: float = 0.0
    failures: list[str] = field(default_factory=list)

    def floats(
        self, what: str, mine: Any, reference: Any, *, absolute: float | None = None, relative: float = 1e-5
    ) -> None:
        """Floats within an absolute limit, or within ``relative`` where none is given."""
        mine, reference = torch.as_tensor(mine).double(), torch.as_tensor(reference).double()
        if mine.shape != reference.shape:
            self.failures.append(f"{what}: shape {tuple(mine.shape)}, expected {tuple(reference.shape)}")
            return
        if not reference.numel():
            return
        difference = float((mine - reference).abs().max())
        scale = float(reference.abs().max())
        error = difference / scale if scale else difference
        self.max_relative_error = max(self.max_relative_error, error)
        limit = absolute if absolute is not None else relative * (scale or 1.0)
        if not difference <= limit:
            self.failures.append(f"{what}: off by {difference:.2e}, limit {limit:.2e}")

    def exact(self, what: str, mine: Any, reference: Any) -> None:
        """Indices, masks, labels, ids, counts: identical, shape included."""
        if isinstance(reference, Tensor) or isinstance(mine, Tensor):
            mine, reference = torch.as_tensor(mine), torch.as_tensor(reference)
            same = mine.shape == reference.shape and bool((mine == reference).all())
        else:
            same = mine == reference
        if not same:
            self.failures.append(f"{what}: {_short(mine)}, expected {_short(reference)}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """An exception on the way fails this case by name, and the cases after it still run."""
        try:
            yield
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def result(self) -> Result:
        return Result(self.name, self.max_relative_error, not self.failures, "; ".join(self.failures))


def _short(value: Any) -> str:
    text = str(value.tolist() if isinstance(value, Tensor) else value)
    return text if len(text) <= 120 else text[:117] + "..."
