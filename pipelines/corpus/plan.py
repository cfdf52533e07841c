"""What happens in every video of a corpus, decided before a single pixel is drawn.

Answers are balanced by construction: over the videos of a corpus each colour, shape, quarter, number of scenes and
option letter comes up equally often (to within one), and independently of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.corpus.config import MARGIN_S, CorpusConfig, Kind
from pipelines.corpus.needle import REACH, SHAPES
from pipelines.corpus.scenes import PAINTERS, PALETTES, Palette

QUARTERS = ("the first quarter", "the second quarter", "the third quarter", "the last quarter")
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Needle:
    """The shape that appears briefly: centre and times in video coordinates."""

    colour: str
    shape: str
    start_s: float
    end_s: float
    centre_xy: tuple[float, float]


@dataclass(frozen=True)
class Question:
    """A multiple-choice question; ``answer`` is one of ``options``.

    Where letters are taught there are four options; where texts are, all answers that are taught.
    """

    kind: Kind
    text: str
    options: tuple[str, ...]
    answer: str

    @property
    def letter(self) -> str:
        return LETTERS[self.options.index(self.answer)]


@dataclass(frozen=True)
class VideoPlan:
    """One video. ``cuts_s`` are the times at which a new scene begins, the first scene's 0 left out."""

    video_id: str
    painters: tuple[str, ...]
    palettes: tuple[Palette, ...]
    cuts_s: tuple[float, ...]
    needle: Needle
    questions: tuple[Question, ...]
    pixel_seed: int


def plan_corpus(config: CorpusConfig) -> list[VideoPlan]:
    """The plan of every video, a pure function of the config."""
    rng = np.random.default_rng([config.seed, 0])
    drawn: dict[str, list[Any]] = {
        "colour": balanced(config.colours, config.num_videos, rng),
        "shape": balanced(list(SHAPES), config.num_videos, rng),
        "quarter": balanced(range(4), config.num_videos, rng),
        "scenes": balanced(config.scenes, config.num_videos, rng),
        "colour_slot": balanced(range(4), config.num_videos, rng),
        "shape_slot": balanced(range(4), config.num_videos, rng),
    }
    rows = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]
    return [_plan_video(config, index, row) for index, row in enumerate(rows)]


def balanced(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """``count`` draws in which the numbers of occurrences of any two values differ by at most one."""
    rounds = -(-count // len(values))
    order = np.concatenate([rng.permutation(len(values)) for _ in range(rounds)])[:count]
    # Without this second shuffle a value could never come up again before all others had.
    return [values[i] for i in rng.permutation(order)]


def _plan_video(config: CorpusConfig, index: int, row: dict[str, Any]) -> VideoPlan:
    rng = np.random.default_rng([config.seed, 1, index])
    cuts_s = _cuts(config, row["scenes"], rng)
    needle = _needle(config, row, cuts_s, rng)
    colours = _options(config, config.colours, needle.colour, row["colour_slot"], rng)
    shapes = _options(config, SHAPES, needle.shape, row["shape_slot"], rng)
    questions = {
        "colour": ("What colour is the shape that appears briefly?", colours, needle.colour),
        "shape": ("Which shape appears briefly?", shapes, needle.shape),
        "time": ("In which part of the video does the coloured shape appear?", QUARTERS, QUARTERS[row["quarter"]]),
        "scenes": ("How many scenes does the video show?", tuple(map(str, config.scenes)), str(row["scenes"])),
    }
    return VideoPlan(
        video_id=f"needle_{config.seed:03d}_{index:05d}",
        painters=tuple(rng.permutation(sorted(PAINTERS))[: row["scenes"]].tolist()),
        palettes=tuple(PALETTES[family][rng.integers(2)] for family in rng.permutation(len(PALETTES))[: row["scenes"]]),
        cuts_s=cuts_s,
        needle=needle,
        questions=tuple(Question(kind, *questions[kind]) for kind in config.kinds),
        pixel_seed=int(rng.integers(2**32)),
    )


def _options(
    config: CorpusConfig, values: Sequence[str], answer: str, slot: int, rng: np.random.Generator
) -> tuple[str, ...]:
    others = [value for value in values if value != answer]
    options = [others[i] for i in rng.permutation(len(others))[:3]]
    options.insert(slot, answer)
    return tuple(options) if config.answer_form == "letter" else tuple(values)


def _cuts(config: CorpusConfig, scenes: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Cuts on whole frames; every scene lasts 0.7 to 1.3 of an even share."""
    share_s = config.seconds / scenes
    jitter_s = rng.uniform(-0.15, 0.15, scenes - 1) * share_s
    frames = np.round((np.arange(1, scenes) * share_s + jitter_s) * config.fps)
    return tuple((frames / config.fps).tolist())


def _needle(config: CorpusConfig, row: dict[str, Any], cuts_s: Sequence[float], rng: np.random.Generator) -> Needle:
    frames = round(rng.uniform(*config.needle_seconds) * config.fps)
    length_s = frames / config.fps
    quarter_s = config.seconds / 4
    begin_s = row["quarter"] * quarter_s
    starts_s = np.arange(config.frames_per_video) / config.fps
    free = (starts_s >= begin_s + MARGIN_S) & (starts_s + length_s <= begin_s + quarter_s - MARGIN_S)
    for cut_s in cuts_s:
        free &= (starts_s + length_s <= cut_s - MARGIN_S) | (starts_s >= cut_s + MARGIN_S)
    start_s = float(rng.choice(starts_s[free]))
    reach = REACH * (config.needle_area * config.width * config.height) ** 0.5
    span_x, span_y = config.width / 2 - reach, config.height / 2 - reach
    centre = (config.width / 2 + rng.uniform(-span_x, span_x), config.height / 2 + rng.uniform(-span_y, span_y))
    return Needle(row["colour"], row["shape"], start_s, start_s + length_s, centre)
