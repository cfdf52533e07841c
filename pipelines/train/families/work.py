"""What a packed row asks of a model, in counts: from them come operations and bytes (:mod:`pipelines.train.costs`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longvu_model.packing import ROW_MULTIPLE

if TYPE_CHECKING:
    from pipelines.train.stages import Part


@dataclass(frozen=True)
class RowWork:
    """What one packed row asks of the model.

    Attributes:
        lengths: tokens of each sequence, text and visual.
        targets: learned tokens.
        frames: frames that the model sees.
        cells: what the first part behind the towers works on for them: LongVU's query cells, VideoLLaMB's tokens in
            the bridge, LLaMA-VID's pairs of a guiding text and a frame.
        rendered: visual tokens projected to the language model, newlines not counted.
        online_frames: frames that go through the towers.
    """

    lengths: Sequence[int]
    targets: int
    frames: int = 0
    cells: int = 0
    rendered: int = 0
    online_frames: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the row as it is computed, filled up."""
        return -(-sum(self.lengths) // ROW_MULTIPLE) * ROW_MULTIPLE

    @property
    def attention_pairs(self) -> int:
        """Sum of squared lengths, the filler's included."""
        return sum(length**2 for length in self.lengths) + (self.tokens - sum(self.lengths)) ** 2

    def __add__(self, other: RowWork) -> RowWork:
        """Both in one row."""
        mine, theirs = ({f.name: getattr(work, f.name) for f in dataclasses.fields(work)} for work in (self, other))
        return RowWork(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class VisualPart:
    """Operations of one part between towers and language model, in a forward pass.

    Attributes:
        part: what freezes it.
        flops: of all its products.
        first: those among them that read features, which need no gradient.
        chained: whether its products follow one another, so that its own learning takes gradients through it.
    """

    part: Part
    flops: float
    first: float = 0.0
    chained: bool = False
