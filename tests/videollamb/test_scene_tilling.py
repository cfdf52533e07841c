"""SceneTilling against walking step by step, and as a stream against all frames at once."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longvu_model.videollamb.frame_selection import scene_frames
from longvu_model.videollamb.scene_tilling import BoundaryRule, boundaries, depth_scores, scenes
from longvu_model.videollamb.streaming import RunningScenes, SceneRule, SceneSketch

# Few values, so that plateaus and ties are common.
SIMILARITIES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=40)


def walked_depth(similarity: list[float], i: int, left_only: bool) -> float:
    """The definition: climb for as long as the next value does not drop."""
    left = i
    while left > 0 and similarity[left - 1] >= similarity[left]:
        left -= 1
    right = i
    while right < len(similarity) - 1 and similarity[right + 1] >= similarity[right]:
        right += 1
    depth = similarity[left] - similarity[i]
    return depth if left_only else depth + similarity[right] - similarity[i]


@given(SIMILARITIES, st.booleans())
def test_depths_are_those_of_walking(similarity: list[float], left_only: bool) -> None:
    expected = [walked_depth(similarity, i, left_only) for i in range(len(similarity))]
    assert depth_scores(torch.tensor(similarity), left_only=left_only).tolist() == expected


@given(SIMILARITIES, st.integers(0, 5))
def test_scenes_cover_the_video(similarity: list[float], count: int) -> None:
    ends = boundaries(depth_scores(torch.tensor(similarity)), BoundaryRule(count=count))
    assert len(ends) == min(count, len(similarity)) + 1
    assert [i for first, last in scenes(ends) for i in range(first, last + 1)] == list(range(len(similarity) + 1))


def test_the_cap_keeps_the_deepest_and_ties_go_to_the_earlier() -> None:
    depth = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0, 0.0])
    assert boundaries(depth, BoundaryRule(alpha=0.0, most=2)) == [1, 5, 9]
    assert boundaries(depth, BoundaryRule(count=1)) == [1, 9]
    assert boundaries(torch.tensor([1.0]), BoundaryRule()) == [1]


@given(SIMILARITIES)
def test_a_stream_knows_the_depths_of_all_frames_at_once(similarity: list[float]) -> None:
    """Of what lies before the climb that goes on, the running sums are those of the depths."""
    stream = RunningScenes()
    for i, one in enumerate(similarity):
        stream.num_frames = i + 2
        stream._add_similarity(one)
    depth = depth_scores(torch.tensor(similarity, dtype=torch.float64))
    settled = depth[: len(depth) - stream._climb.count]
    known = stream._statistics
    assert known.count == len(settled)
    assert known.total == pytest.approx(float(settled.sum()))
    assert known.squares == pytest.approx(float(settled.square().sum()))
    if len(settled) > 1:
        assert known.deeper_than(0.5) == pytest.approx(float(settled.mean() + 0.5 * settled.std()))


def shots(*lengths: int, noise: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(len(lengths), 16, generator=generator)
    frames = torch.repeat_interleave(centres, torch.tensor(lengths), dim=0)
    return frames + noise * torch.randn(frames.shape, generator=generator)


def test_each_shot_of_a_stream_is_told_once_and_soon() -> None:
    lengths = (20, 12, 9, 40, 15)
    stream, ended = RunningScenes(), []
    for i, vector in enumerate(shots(*lengths)):
        scene = stream.add(vector)
        if scene is not None:
            ended.append(scene)
            assert i - scene[1] <= 3, "known three frames after the cut at the latest"
    last = stream.finish()
    assert last is not None
    ended.append(last)
    edges = torch.tensor(lengths).cumsum(0).tolist()
    assert ended == list(zip([0, *edges[:-1]], [edge - 1 for edge in edges], strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_stream_in_which_nothing_happens_is_one_scene(noise: float) -> None:
    stream = RunningScenes()
    assert [stream.add(vector) for vector in shots(300, noise=noise)] == [None] * 300
    assert stream.finish() == (0, 299)
    limited = RunningScenes(SceneRule(longest=50))
    ended = [scene for scene in map(limited.add, shots(300, noise=noise)) if scene]
    assert [last - first + 1 for first, last in ended] == [50] * 5


def test_a_stream_holds_as_much_after_a_thousand_frames_as_after_ten() -> None:
    stream, sketch = RunningScenes(), SceneSketch(8)
    for i, vector in enumerate(shots(1000)):
        stream.add(vector.clone())
        sketch.add(i, vector)
        assert len(sketch._held) <= 16
        assert len(pickle.dumps(stream)) < 2000
    taken = [frame for frame, _ in sketch.take(0, 999)]
    assert len(taken) == 8 and taken[0] == 0 and taken[-1] == 999
    gaps = torch.tensor(taken).diff()
    assert int(gaps.max()) <= 2 * int(gaps.min())


def test_a_short_scene_is_sketched_as_in_a_whole_video_and_the_next_begins_afresh() -> None:
    sketch = SceneSketch(8)
    for i in range(14):
        sketch.add(i, torch.tensor(i))
    assert [frame for frame, _ in sketch.take(0, 11)] == scene_frames(0, 11, 8)
    assert [int(tokens) for _, tokens in sketch.take(12, 13)] == [12, 13]


def test_the_newest_frame_is_there_even_when_others_are_skipped() -> None:
    sketch = SceneSketch(2)
    for i in range(10):
        sketch.add(i, torch.tensor(i))
    sketch.take(0, 8)
    assert [frame for frame, _ in sketch.take(9, 9)] == [9]
