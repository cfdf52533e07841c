"""CorpusConfig: everything that fixes the bytes of a synthetic corpus."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, get_args

from pipelines.corpus.needle import COLOURS, MORE_COLOURS, REACH
from pipelines.errors import UserError

Kind = Literal["colour", "shape", "time", "scenes"]
AnswerForm = Literal["letter", "text"]

KINDS: tuple[Kind, ...] = get_args(Kind)
# Fields that say what videos look like; settings of other kinds carry them under the same names.
_LOOK = ("width", "height", "fps", "scenes", "needle_area", "colours")
# Part of the digest: raise it when the same config would give other pictures or other questions.
GENERATOR_VERSION = 2
# The needle keeps this far from cuts and from the ends of its quarter, so that no answer is a matter of opinion.
MARGIN_S = 0.5


class CorpusError(UserError):
    """A corpus that cannot be written or read as asked; the message names what is wrong and the fix."""


@dataclass(frozen=True)
class CorpusConfig:
    """Parameters of a corpus; the same values always give the same files.

    Attributes:
        num_videos: videos to write.
        seconds: length of each video.
        seed: another seed gives other scenes, needles and answers.
        width, height: pixels, even (4:2:0 chroma).
        fps: frames per second of the files.
        scenes: numbers of scenes a video may have; they are also the options of the question about scenes.
        needle_seconds: shortest and longest time the needle is visible.
        needle_area: fraction of the frame that the needle covers.
        colours: colours that a needle may have.
        kinds: questions asked about every video, in this order.
        answer_form: what the annotations teach: the option's letter, or its text.
        gop: largest distance between key frames, in frames.
        crf: x264 quality, 0 (lossless) to 51.

    Raises:
        CorpusError: a field is outside its range; the message names it, the value and what is allowed.
    """

    num_videos: int = 8
    seconds: float = 120.0
    seed: int = 0
    width: int = 320
    height: int = 180
    fps: int = 10
    scenes: tuple[int, ...] = (2, 3, 4, 5)
    needle_seconds: tuple[float, float] = (2.0, 4.0)
    needle_area: float = 0.1
    colours: tuple[str, ...] = tuple(COLOURS)
    kinds: tuple[Kind, ...] = KINDS
    answer_form: AnswerForm = "letter"
    gop: int = 250
    crf: int = 27

    def __post_init__(self) -> None:
        # One spelling of a value, so that equal configurations have equal digests.
        for name in ("seconds", "needle_area"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, kind in (("scenes", int), ("needle_seconds", float), ("kinds", str), ("colours", str)):
            object.__setattr__(self, name, tuple(kind(value) for value in getattr(self, name)))
        shortest, longest = self.needle_seconds
        # A scene lasts at least 0.7 of an even share, and some scene fills at least half of every quarter.
        share = min(0.7 / max([1, *self.scenes]), 0.125)
        least_s = (longest + 2 * MARGIN_S + 2 / max(self.fps, 1)) / share
        reach_px = REACH * (max(self.needle_area, 0) * self.width * self.height) ** 0.5
        for field, holds, allowed in (
            ("num_videos", self.num_videos >= 1, "at least 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("width", self.width >= 64 and self.width % 2 == 0, "an even number of pixels, at least 64"),
            ("height", self.height >= 64 and self.height % 2 == 0, "an even number of pixels, at least 64"),
            ("fps", 1 <= self.fps <= 60, "1 to 60"),
            ("scenes", self.scenes and set(self.scenes) <= set(range(1, 8)), "numbers from 1 to 7"),
            ("scenes", len(set(self.scenes)) == len(self.scenes), "each number once"),
            ("needle_seconds", 1.0 <= shortest <= longest, "two lengths in order, each at least 1 second"),
            ("seconds", self.seconds >= least_s, f"at least {ceil(least_s)} (room for the needle in every quarter)"),
            ("needle_area", self.needle_area >= 0.005, "at least 0.005 of the frame"),
            ("needle_area", 2 * reach_px <= min(self.width, self.height), "less: the needle must fit into the frame"),
            ("colours", len(set(self.colours)) == len(self.colours) >= 4, "at least 4, each once"),
            ("colours", set(self.colours) <= {*COLOURS, *MORE_COLOURS}, f"some of {', '.join(COLOURS | MORE_COLOURS)}"),
            ("kinds", self.kinds and set(self.kinds) <= set(KINDS), f"some of {', '.join(KINDS)}"),
            ("answer_form", self.answer_form in get_args(AnswerForm), "letter or text"),
            ("gop", self.gop >= 1, "at least 1"),
            ("crf", 0 <= self.crf <= 51, "0 to 51"),
        ):
            if not holds:
                raise CorpusError(f"{field}={getattr(self, field)!r} of the corpus: use {allowed}")

    @classmethod
    def with_look_of(cls, settings: object, **others: Any) -> CorpusConfig:
        """A corpus whose videos look as ``settings`` say in fields of the same names.

        Args:
            settings: has width, height, fps, scenes, needle_area and colours.
            **others: the other fields.

        Raises:
            CorpusError: as for the class.
        """
        return cls(**{name: getattr(settings, name) for name in _LOOK}, **others)

    @property
    def frames_per_video(self) -> int:
        return round(self.seconds * self.fps)

    def digest(self) -> str:
        """32 hex digits that name the corpus; the bytes of its videos also depend on the version of x264."""
        fields = {"generator": GENERATOR_VERSION, **dataclasses.asdict(self)}
        return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16).hexdigest()
