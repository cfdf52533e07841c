"""SceneTilling: where scenes end, from one vector per frame (SEMANTICS section 2).

A frame pair's depth says how far its similarity lies below the peaks on both sides of it. The deepest pairs are
boundaries: a boundary ``b`` is the last frame of its scene.

Shapes: T frames, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class BoundaryRule:
    """Which depths are boundaries.

    Attributes:
        count: so many, the deepest; all that there are in a shorter video.
        alpha: without ``count``, those deeper than the mean by so many (unbiased) standard deviations.
        most: of those, the deepest so many; ``None`` for no limit.
    """

    count: int | None = None
    alpha: float = 0.5
    most: int | None = None


def similarities(vectors_TD: Tensor) -> Tensor:
    """Cosine of each frame's vector to the next one's, float32 (T - 1,); norms count as 1e-8 at least."""
    vectors_TD = vectors_TD.float()
    return functional.cosine_similarity(vectors_TD[:-1], vectors_TD[1:], dim=-1, eps=1e-8)


def depth_scores(similarity: Tensor, *, left_only: bool = False) -> Tensor:
    """Depth of each similarity below the peaks on its left and its right, or with ``left_only`` on its left: (T - 1,).

    A peak is found by walking away for as long as values do not drop.
    """
    left = _left_peaks(similarity)
    if left_only:
        return left - similarity
    return left + _left_peaks(similarity.flip(0)).flip(0) - 2 * similarity


def _left_peaks(similarity: Tensor) -> Tensor:
    """The walk to the left ends where the run that never rises (towards the right) begins."""
    place = torch.arange(len(similarity), device=similarity.device)
    rises = functional.pad(similarity[1:] > similarity[:-1], (1, 0))
    begin = torch.where(rises, place, 0).cummax(0).values if len(place) else place
    return similarity[begin]


def boundaries(depth: Tensor, rule: BoundaryRule, *, close: bool = True) -> list[int]:
    """Last frames of the scenes, ascending.

    Args:
        depth: (T - 1,), on the CPU if the result is wanted without waiting for a device.
        close: end with the last frame ``T - 1``, as both published models do; otherwise it stands alone where there is
            no boundary, as with the left flavour.
    """
    if rule.count is not None:
        found = _deepest(depth, rule.count)
    elif len(depth) > 1:
        found = (depth > depth.mean() + rule.alpha * depth.std()).nonzero()[:, 0]
        if rule.most is not None and len(found) > rule.most:
            found = _deepest(depth, rule.most)
    else:
        found = depth.new_zeros(0, dtype=torch.int64)  # one similarity has no deviation
    chosen: list[int] = found.tolist()
    return [*chosen, len(depth)] if close or not chosen else chosen


def _deepest(depth: Tensor, count: int) -> Tensor:
    """Positions of the largest depths, ascending; the earlier one of equals."""
    return depth.argsort(descending=True, stable=True)[:count].sort().values


def scenes(ends: list[int]) -> list[tuple[int, int]]:
    """First and last frame of each scene."""
    return list(zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True))
