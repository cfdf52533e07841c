"""When a stream of frames is captioned (SEMANTICS section 9): the published rule, and a sound one.

:class:`PublishedStream` does what the released script does, step by step. It looks at all frames again for each one,
takes the newest frame for a boundary, and once a video has two scene changes speaks on every second frame.

:class:`RunningScenes` is SceneTilling as frames come: a scene has ended when the similarity has risen again by so much
that the dip between must be a boundary. Time and memory for each frame are constant.

Shapes: D channels of a frame's vector.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from longvu_model.videollamb.frame_selection import evenly_spaced, scene_frames, whole_windows
from longvu_model.videollamb.scene_tilling import BoundaryRule, boundaries, depth_scores, similarities

_PUBLISHED_RULE = BoundaryRule(alpha=0.5, most=15)


@dataclass(frozen=True)
class Firing:
    """An answer that is due.

    Attributes:
        time_s: of the question, or of the frame that made the stream speak.
        query: the question; ``None`` where nobody asked.
        frames: of all so far, those that are looked at.
    """

    time_s: float
    query: str | None
    frames: list[int]

    def __str__(self) -> str:
        return f"(Video Time = {self.time_s}s) User: {self.query}"


class PublishedStream:
    """The released script's loop.

    Args:
        fps: frame ``i`` has time ``i / fps``.
        window: frames are shown in multiples of it.

    Attributes:
        boundaries: of all frames so far.
        recorded: boundaries of earlier firings, in the order of recording.
        waiting: frames that are still to be tested.
    """

    def __init__(self, fps: float = 1.0, window: int = 8) -> None:
        self._fps, self._window = fps, window
        self._vectors: list[Tensor] = []
        self._queries: deque[tuple[float, str]] = deque()
        self.waiting: deque[int] = deque()
        self.boundaries: list[int] = []
        self.recorded = [0]

    def ask(self, time_s: float, query: str) -> None:
        """A question, answered with the first frame that is later."""
        self._queries.append((time_s, query))

    def add(self, vector_D: Tensor) -> Firing | None:
        """Take the next frame's class token; the answer that is due now, if one is."""
        self.waiting.append(len(self._vectors))
        self._vectors.append(vector_D)
        self.boundaries = boundaries(depth_scores(similarities(torch.stack(self._vectors))), _PUBLISHED_RULE)
        while self.waiting:
            time_s = self.waiting[0] / self._fps
            if self._queries and time_s > self._queries[0][0]:
                return self._firing(*self._queries.popleft())
            self.waiting.popleft()
            if self._is_due(time_s):
                self.recorded += [one for one in self.boundaries if one not in self.recorded]
                return self._firing(time_s, None)
        return None

    def _is_due(self, time_s: float) -> bool:
        last = self.boundaries[-1]
        return (
            last not in self.recorded
            and len(self.boundaries) > 2
            # Seconds and frame numbers, mixed as in the release.
            and time_s - last < 3
            and last - self.recorded[-1] > 1
        )

    def _firing(self, time_s: float, query: str | None) -> Firing:
        seen = len(self._vectors)
        return Firing(time_s, query, evenly_spaced(seen, whole_windows(seen, self._window, most=None)))


@dataclass(frozen=True)
class SceneRule:
    """What ends a scene, in frames.

    Attributes:
        alpha: a boundary is deeper than the mean of all depths so far by so many standard deviations,
        min_depth: and at least so deep: in a video where nothing happens the deviations are noise.
        shortest: of a scene; boundaries that come earlier are passed over.
        longest: of a scene, which then ends without a boundary; ``None`` for no limit.
    """

    alpha: float = 1.0
    min_depth: float = 0.05
    shortest: int = 8
    longest: int | None = None


@dataclass
class _Statistics:
    """Mean and deviation of numbers that come in groups."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def deeper_than(self, alpha: float) -> float:
        """``mean + alpha * std``; infinite before there are two."""
        if self.count < 2:
            return math.inf
        mean = self.total / self.count
        variance = max(0.0, self.squares - self.count * mean * mean) / (self.count - 1)
        return mean + alpha * math.sqrt(variance)


@dataclass
class _Climb:
    """Similarities since the last drop, whose right peak is not known yet: depth = ``base`` + right peak."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    deepest: float = -math.inf
    frame: int = -1

    def add(self, base: float, frame: int) -> None:
        self.count += 1
        self.total += base
        self.squares += base * base
        if base > self.deepest:
            self.deepest, self.frame = base, frame


@dataclass
class RunningScenes:
    """SceneTilling on a stream: the same depths, with thresholds from the depths so far.

    Attributes:
        num_frames: taken so far.
        first: first frame of the scene that goes on.
    """

    rule: SceneRule = field(default_factory=SceneRule)
    num_frames: int = 0
    first: int = 0
    _vector: Tensor | None = None
    _similarity: float = math.inf
    _left_peak: float = math.inf
    _climb: _Climb = field(default_factory=_Climb)
    _statistics: _Statistics = field(default_factory=_Statistics)

    def add(self, vector_D: Tensor) -> tuple[int, int] | None:
        """Take the next frame's vector; first and last frame of the scene that is known now to have ended."""
        self.num_frames += 1
        if self._vector is not None:
            self._add_similarity(float(similarities(torch.stack([self._vector, vector_D]))))
        self._vector = vector_D
        last = self._boundary()
        if last is None:
            return None
        scene = (self.first, last)
        self.first = last + 1
        return scene

    def finish(self) -> tuple[int, int] | None:
        """The scene that the end of the stream ends."""
        return (self.first, self.num_frames - 1) if self.num_frames > self.first else None

    def _add_similarity(self, similarity: float) -> None:
        """Of the pair that the newest frame closes."""
        if similarity < self._similarity and self._climb.count:
            self._settle(self._similarity)
        if similarity > self._similarity or math.isinf(self._left_peak):
            self._left_peak = similarity
        self._similarity = similarity
        self._climb.add(self._left_peak - 2 * similarity, self.num_frames - 2)

    def _settle(self, peak: float) -> None:
        """The climb has ended: its depths are known."""
        climb, known = self._climb, self._statistics
        known.count += climb.count
        known.total += climb.total + climb.count * peak
        known.squares += climb.squares + 2 * peak * climb.total + climb.count * peak * peak
        self._climb = _Climb()

    def _boundary(self) -> int | None:
        """The deepest pair of the climb, as soon as the peak so far makes it one; a higher peak only deepens it."""
        if self.rule.longest is not None and self.num_frames - self.first > self.rule.longest:
            return self.num_frames - 2
        frame = self._climb.frame
        if frame + 1 - self.first < self.rule.shortest:
            return None
        depth = self._climb.deepest + self._similarity
        deep_enough = depth >= self.rule.min_depth and depth > self._statistics.deeper_than(self.rule.alpha)
        return frame if deep_enough else None


class SceneSketch:
    """Frames of the scene that goes on, evenly spaced, in constant memory.

    Up to ``2 * most`` frames are held, and the newest. When they are full every other one is let go, and only every
    other new one is taken from then on.

    Args:
        most: frames of a scene that will be looked at.
    """

    def __init__(self, most: int) -> None:
        self._most, self._stride = most, 1
        self._held: dict[int, Tensor] = {}
        self._newest: dict[int, Tensor] = {}

    def add(self, frame: int, tokens: Tensor) -> None:
        """A frame of the stream, in order, and what is kept of it."""
        self._newest = {frame: tokens}
        if frame % self._stride == 0:
            self._held[frame] = tokens
        if len(self._held) > 2 * self._most:
            self._stride *= 2
            self._held = {frame: tokens for frame, tokens in self._held.items() if frame % self._stride == 0}

    def take(self, first: int, last: int) -> list[tuple[int, Tensor]]:
        """The frames of a scene that has ended, at most ``most``; what comes before and within it is let go."""
        held = self._held | self._newest
        inside = [frame for frame in held if first <= frame <= last]
        chosen = [inside[i] for i in scene_frames(0, len(inside) - 1, self._most)] if inside else []
        self._held = {frame: tokens for frame, tokens in held.items() if frame > last}
        self._stride = 1
        return [(frame, held[frame]) for frame in chosen]
