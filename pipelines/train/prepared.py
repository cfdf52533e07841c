"""What the reader hands to the engine: samples whose text is encoded and whose media are features.

Shapes: T token ids of a sample, V media of it, F frames of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PreparedSample:
    """One sample, ready for the model.

    Attributes:
        index: row in the manifest.
        sample_id: name in the manifest, for reports.
        modality: "text", "image" or "video".
        input_ids: int64 (T,) on the CPU, a negative id where a medium goes.
        labels: int64 (T,) on the CPU, ``IGNORE_INDEX`` where nothing is learned.
        num_targets: labels that are learned and have a token before them, in all sequences: what the loss sums over.
        media: V media in the order of their slots, as features of the frames to be seen in the family's record, or None
            for text. The tensors are as stored (float16 in general) and on the CPU.
        num_sequences: in which the text is learned.
    """

    index: int
    sample_id: str
    modality: str
    input_ids: Tensor
    labels: Tensor
    num_targets: int
    media: Any
    num_sequences: int = 1


@dataclass(frozen=True)
class Unreadable:
    """A sample whose medium could not be read when its turn came; it contributes nothing to the step."""

    index: int
    sample_id: str
    cause: str
    message: str


@dataclass(frozen=True)
class Step:
    """One rank's share of a global batch.

    Attributes:
        cursor: global batches before this one since the start of training; ``cursor + 1`` once it is done.
        epoch: number of the epoch, from 0.
        bins: micro-batches of the rank, each a list of samples to be packed in one row; ranks may have different
            numbers of them, and a bin may be empty if its samples were unreadable.
        planned_target_tokens: targets of the whole global batch, of all ranks, as planned.
        unreadable: samples of this rank's bins that are missing.
        stall_s: seconds for which the caller had to wait for this step.
    """

    cursor: int
    epoch: int
    bins: Sequence[Sequence[PreparedSample]]
    planned_target_tokens: int
    unreadable: Sequence[Unreadable] = field(default=())
    stall_s: float = 0.0

    @property
    def target_tokens(self) -> int:
        """Targets that this rank really has; the sum over ranks is what the loss is divided by."""
        return sum(sample.num_targets for row in self.bins for sample in row)


def with_features(media: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A family's record of media with ``change`` applied to its features or pixels: its tensors of real numbers."""
    changed: dict[str, Any] = {}
    for each in dataclasses.fields(media):
        value = getattr(media, each.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            changed[each.name] = change(value)
        elif dataclasses.is_dataclass(value):
            changed[each.name] = with_features(value, change)
    return dataclasses.replace(media, **changed)
