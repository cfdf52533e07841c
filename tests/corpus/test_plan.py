"""The plan of a corpus: balanced, unambiguous, and a function of its configuration alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus import KINDS, CorpusConfig, CorpusError, plan_corpus
from pipelines.corpus.needle import COLOURS, REACH, SHAPES, needle_sprite
from pipelines.corpus.plan import QUARTERS


def balanced(values: Iterable[object], expected: int) -> bool:
    counts = Counter(values).values()
    return len(counts) == expected and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("num_videos", [24, 50])
def test_answers_are_balanced(num_videos: int) -> None:
    plans = plan_corpus(CorpusConfig(num_videos=num_videos, seed=3))
    assert balanced((plan.needle.colour for plan in plans), len(COLOURS))
    assert balanced((plan.needle.shape for plan in plans), len(SHAPES))
    for number, kind in enumerate(KINDS):
        questions = [plan.questions[number] for plan in plans]
        assert {question.kind for question in questions} == {kind}
        assert balanced((question.letter for question in questions), 4), kind


def test_colour_tells_nothing_of_shape() -> None:
    pairs = Counter((plan.needle.colour, plan.needle.shape) for plan in plan_corpus(CorpusConfig(num_videos=480)))
    assert len(pairs) == len(COLOURS) * len(SHAPES)
    assert max(pairs.values()) <= 2.2 * 480 / len(pairs)


@given(
    seed=st.integers(0, 2**31),
    seconds=st.integers(48, 600),
    fps=st.sampled_from([2, 10, 25]),
    most_scenes=st.integers(1, 5),
)
def test_no_answer_is_a_matter_of_opinion(seed: int, seconds: int, fps: int, most_scenes: int) -> None:
    config = CorpusConfig(num_videos=2, seed=seed, seconds=seconds, fps=fps, scenes=tuple(range(1, most_scenes + 1)))
    for plan in plan_corpus(config):
        needle = plan.needle
        shortest, longest = config.needle_seconds
        assert shortest - 0.5 / fps <= needle.end_s - needle.start_s <= longest + 0.5 / fps
        answers = {question.kind: question.answer for question in plan.questions}
        begin = QUARTERS.index(answers["time"]) * seconds / 4
        assert begin + 0.5 <= needle.start_s < needle.end_s <= begin + seconds / 4 - 0.5 + 1e-9
        for cut in plan.cuts_s:
            assert cut + 0.5 <= needle.start_s + 1e-9 or needle.end_s <= cut - 0.5 + 1e-9
        edges = [0.0, *plan.cuts_s, float(seconds)]
        assert answers["scenes"] == str(len(edges) - 1) == str(len(plan.painters)) == str(len(plan.palettes))
        assert min(b - a for a, b in pairwise(edges)) >= 0.69 * seconds / (len(edges) - 1) - 1 / fps
        assert len(set(plan.painters)) == len(plan.painters)
        for question in plan.questions:
            assert len(set(question.options)) == len(question.options)
            assert question.options[ord(question.letter) - ord("A")] == question.answer
        reach = REACH * (config.needle_area * config.width * config.height) ** 0.5
        for centre, length in zip(needle.centre_xy, (config.width, config.height), strict=True):
            assert reach <= centre <= length - reach


def test_the_plan_depends_on_the_seed_alone() -> None:
    assert plan_corpus(CorpusConfig(seed=1)) == plan_corpus(CorpusConfig(seed=1))
    assert plan_corpus(CorpusConfig(seed=1)) != plan_corpus(CorpusConfig(seed=2))
    assert CorpusConfig(seed=1).digest() != CorpusConfig(seed=2).digest()
    assert CorpusConfig(seconds=120).digest() == CorpusConfig(seconds=120.0).digest()


def test_all_shapes_have_one_area_and_fit() -> None:
    sprites = {shape: np.asarray(needle_sprite("red", shape, 4000)).astype(float) / 255 for shape in SHAPES}
    full = COLOURS["red"][0] / 255
    for shape, sprite in sprites.items():
        red = (sprite[..., 0] * sprite[..., 3]).sum() / full
        assert red == pytest.approx(4000, rel=0.03), shape
        assert sprite[[0, -1]].max() == 0, "touches the edge of its sprite"
        assert sprite[:, [0, -1]].max() == 0, "touches the edge of its sprite"
    for one, other in combinations(sprites.values(), 2):
        assert ((one[..., 0] > 0.5) ^ (other[..., 0] > 0.5)).sum() > 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_videos": 0}, "num_videos=0"),
        ({"width": 321}, "width=321"),
        ({"fps": 0}, "fps=0"),
        ({"scenes": ()}, "scenes="),
        ({"scenes": (0, 1)}, "scenes="),
        ({"scenes": (2, 2)}, "each number once"),
        ({"seconds": 10}, r"seconds=10.0 of the corpus: use at least \d+"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"needle_seconds": (4, 2)}, "needle_seconds="),
        ({"needle_area": 0.5}, "must fit into the frame"),
        ({"kinds": ("taste",)}, "some of colour, shape, time, scenes"),
        ({"answer_form": "song"}, "letter or text"),
        ({"colours": ("red", "green", "blue")}, "at least 4"),
        ({"colours": ("red", "green", "blue", "mauve")}, "some of red, .* violet"),
        ({"crf": 99}, "crf=99"),
    ],
)
def test_impossible_configurations_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        CorpusConfig(**changes)  # type: ignore[arg-type]
