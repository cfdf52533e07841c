"""Which published quirks a VideoLLaMB keeps: one frozen record, two instances, as LongVU's.

``PUBLISHED`` computes what the released checkpoints were trained to compute; ``CORRECTED`` mends what is a defect.
Code asks for a field, never for the name of the record.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Semantics:
    """One field per defect; ``True`` keeps the published behaviour."""

    whole_windows_only: bool
    """A video's frames must be a multiple of the temporal window of 8, and enough for all scenes; otherwise the last
    frame fills the last window up (its copies are never seen), and a short video has fewer scenes."""

    outputs_follow_inputs: bool
    """Without an input mask none is made, so the padding of a ragged batch takes part in attention."""

    dummy_image_for_text: bool
    """A row without a placeholder takes a medium along, which is encoded and ignored."""

    labels_by_count: bool
    """Labels are found by counting the tokens of rounds, and a sample whose count is off is not learned at all;
    otherwise what is learned is what has to be generated."""

    answers_in_another_style: bool
    """Questions are asked in a template that speaks of a "human", although training spoke of a "user"."""

    stream_recomputes: bool
    """Each streamed frame goes through scene detection over all frames so far, which takes the newest for a boundary,
    and so speaks on every second frame once there are two scene changes; each answer encodes all frames again.
    Otherwise windows are encoded once, statistics and memories run along, and a scene is told once, when it has
    ended."""


PUBLISHED = Semantics(
    whole_windows_only=True,
    outputs_follow_inputs=True,
    dummy_image_for_text=True,
    labels_by_count=True,
    answers_in_another_style=True,
    stream_recomputes=True,
)

CORRECTED = Semantics(
    whole_windows_only=False,
    outputs_follow_inputs=False,
    dummy_image_for_text=False,
    labels_by_count=False,
    answers_in_another_style=False,
    stream_recomputes=False,
)

SEMANTICS = {"published": PUBLISHED, "corrected": CORRECTED}
