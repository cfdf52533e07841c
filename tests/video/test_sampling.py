"""Frame numbers of the published rules, number for number, and what ours do where published ones fail."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longvu_model.video import PUBLISHED_SAMPLING, FrameSampling, folder_frame_numbers, sample_indices

_VECTORS = Path(__file__).resolve().parents[2].parent / "shared/golden/longvu/units/frame_sampling.json"

# frames, frame rate; then (count, sum, last) of quick_start, video_mme, egoschema, mvbench, mvbench from 1.3 to 7.9 s.
# Made with the published code; None where its step of 0 fails.
# fmt: off
_PUBLISHED = [
    (300, 29.97, (10, 1350, 270), (5, 600, 240), (5, 600, 240), (20, 2850, 285), (14, 1911, 234)),
    (301, 30.0, (11, 1650, 300), (6, 900, 300), (6, 900, 300), (21, 3150, 300), (14, 1911, 234)),
    (1000, 25.0, (40, 19500, 975), (20, 9500, 950), (20, 9500, 950), (84, 41832, 996), (14, 1540, 188)),
    (5400, 23.976, (225, 604800, 5376), (113, 303744, 5376), (113, 303744, 5376), (450, 1212300, 5388),
     (14, 1526, 187)),
    (100, 24.0, (5, 240, 96), (3, 144, 96), (3, 144, 96), (9, 432, 96), (6, 366, 91)),
    (777, 12.5, (65, 24960, 768), (33, 12672, 768), (33, 12672, 768), (130, 50310, 774), (14, 770, 94)),
    (64000, 30.0, (2134, 68277330, 63990), (1067, 34122660, 63960), (1067, 34122660, 63960), (4267, 136522665, 63990),
     (14, 1911, 234)),
    (95000, 25.0, (3800, 180452500, 94975), (1900, 90202500, 94950), (1900, 90202500, 94950), (7917, 376025832, 94992),
     (14, 1540, 188)),
    (120000, 59.94, (2000, 119940000, 119940), (1000, 59940000, 119880), (1000, 59940000, 119880),
     (4000, 239940000, 119970), (14, 3822, 468)),
    (50, 10.0, (5, 100, 40), (3, 60, 40), (3, 60, 40), (10, 225, 45), (8, 244, 48)),
    (17, 1.0, (17, 136, 16), (9, 72, 16), (9, 72, 16), None, None),
    (61, 15.0, (5, 150, 60), (3, 90, 60), (3, 90, 60), (8, 224, 56), (5, 180, 52)),
    (450, 27.5, (17, 3808, 448), (9, 2016, 448), (9, 2016, 448), (33, 7392, 448), (13, 1560, 204)),
    (60030, 30.0, (2001, 60030000, 60000), (1001, 30030000, 60000), (1001, 30030000, 60000), (4002, 120090015, 60015),
     (14, 1911, 234)),
]
# fmt: on
_MVBENCH_CLIP = dataclasses.replace(PUBLISHED_SAMPLING["mvbench"], start_s=1.3, end_s=7.9)
_RULES = {
    **{name: PUBLISHED_SAMPLING[name] for name in ("quick_start", "video_mme", "egoschema", "mvbench")},
    "mvbench_clip": _MVBENCH_CLIP,
}


@pytest.mark.parametrize("row", _PUBLISHED, ids=lambda row: f"{row[0]}@{row[1]}")
def test_published_rules(row):
    total, rate, *expected = row
    for (name, rule), numbers in zip(_RULES.items(), expected, strict=True):
        if numbers is None:
            with pytest.raises(ValueError, match="step of 0"):
                sample_indices(total, rate, rule)
        else:
            indices = sample_indices(total, rate, rule)
            assert (len(indices), indices.sum(), indices[-1]) == numbers, name


def test_published_training_cap_takes_every_nth_entry_of_the_one_per_second_list():
    # 225 entries, one every 24 frames; the published vector lists their positions: 100 of them, sum 11100, last 222.
    positions = sample_indices(5400, 23.976, PUBLISHED_SAMPLING["training_100"]) // 24
    assert (len(positions), positions.sum(), positions[-1]) == (100, 11100, 222)


def test_stride_thinning_lets_up_to_twice_the_cap_through_and_uniform_never():
    stride = FrameSampling(fps=1, max_frames=1000, thinning="stride")
    assert len(sample_indices(1999 * 25, 25.0, stride)) == 1999
    uniform = dataclasses.replace(stride, thinning="uniform")
    indices = sample_indices(1999 * 25, 25.0, uniform)
    assert len(indices) == 1000
    assert (np.diff(indices) > 0).all()


@pytest.mark.skipif(not _VECTORS.exists(), reason="reference vectors are not here")
def test_reference_vectors():
    names = {
        "readme_and_demo_1fps": "quick_start",
        "videomme_0.5fps": "video_mme",
        "egoschema_mlvu_0.5fps_cap1000": "egoschema",
        "mvbench_2fps": "mvbench",
        "mvbench_2fps_bound_1.3_7.9": "mvbench_clip",
        "training_video_fps_1": "training",
        "training_uniform_sample_100": "training_100",
    }
    rules = _RULES | {name: PUBLISHED_SAMPLING[name] for name in ("training", "training_100")}
    vectors = json.loads(_VECTORS.read_text())
    for video in vectors["video"]:
        for key in set(video) - {"avg_fps", "num_frames"}:
            arguments = video["num_frames"], video["avg_fps"], rules[names[key]]
            if isinstance(video[key], str):
                with pytest.raises(ValueError, match="step of 0"):
                    sample_indices(*arguments)
                continue
            indices = sample_indices(*arguments)
            if key == "training_uniform_sample_100":  # positions in the one-per-second list
                indices = indices // round(video["avg_fps"])
            _check_vector(indices, video[key])
    for folder in vectors["mvbench_frame_folders_fps3"]:
        start_s, end_s = folder["bound"] or (None, None)
        numbers = folder_frame_numbers(folder["files_in_folder"], start_s, end_s)
        _check_vector(numbers, folder["one_based_frame_numbers"])


def _check_vector(indices, vector):
    assert len(indices) == vector["count"]
    assert indices.sum() == vector["sum"]
    assert indices[: len(vector["first"])].tolist() == vector["first"]
    assert indices[-len(vector["last"]) :].tolist() == vector["last"]


def test_frame_folder_numbers():
    assert folder_frame_numbers(120, 2.0, 21.5).tolist() == list(range(6, 64, 2))
    assert folder_frame_numbers(30, 0.0, 5.5).tolist() == list(range(1, 16, 2))
    assert folder_frame_numbers(90).tolist() == list(range(1, 90, 2))
    with pytest.raises(ValueError, match="no file between 40"):
        folder_frame_numbers(90, 40.0, 50.0)


def test_rates_above_the_videos_take_every_frame():
    assert sample_indices(17, 1.0, FrameSampling(fps=30)).tolist() == list(range(17))


def test_uniform_takes_both_ends_and_all_frames_of_short_videos():
    assert sample_indices(100, 25.0, FrameSampling.parse("uniform:4")).tolist() == [0, 33, 66, 99]
    assert sample_indices(3, 25.0, FrameSampling.parse("uniform:8")).tolist() == [0, 1, 2]
    assert sample_indices(1, 25.0, FrameSampling.parse("uniform:8")).tolist() == [0]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("fps:1", FrameSampling()),
        ("uniform:64", FrameSampling(num_frames=64)),
        ("fps:0.5,max:1000", FrameSampling(fps=0.5, max_frames=1000)),
        ("max:10", FrameSampling(fps=1.0, max_frames=10)),
        ("fps:2,start:1.5,end:9", FrameSampling(fps=2, start_s=1.5, end_s=9)),
        ("egoschema", PUBLISHED_SAMPLING["egoschema"]),
        ("mvbench,start:1.3,end:7.9", _MVBENCH_CLIP),
    ],
)
def test_text_of_a_rule(text, rule):
    assert FrameSampling.parse(text) == rule
    assert FrameSampling.parse(str(rule)) == rule


_rules = st.builds(
    FrameSampling,
    fps=st.floats(0.01, 120),
    max_frames=st.none() | st.integers(1, 3000),
    start_s=st.none() | st.floats(0, 5),
    end_s=st.none() | st.floats(6, 99),
    thinning=st.sampled_from(["uniform", "stride"]),
    round_rate_first=st.booleans(),
) | st.builds(FrameSampling, num_frames=st.integers(1, 3000))


@given(rule=_rules, total=st.integers(1, 5000), rate=st.floats(1, 120))
def test_indices_are_ascending_unique_and_inside(rule, total, rate):
    assert FrameSampling.parse(str(rule)) == rule
    try:
        indices = sample_indices(total, rate, rule)
    except ValueError as error:
        assert "no frame between" in str(error)
        return
    assert indices.dtype == np.int64
    assert len(indices) > 0
    assert indices[0] >= 0
    assert indices[-1] < total
    assert (np.diff(indices) > 0).all()
    if rule.max_frames is not None:
        assert len(indices) < 2 * rule.max_frames
        assert rule.thinning == "stride" or len(indices) <= rule.max_frames


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("every:3", "every:3"),
        ("fps:fast", "'fast' is not a valid value of 'fps'"),
        ("fps:0", "fps=0.0 must be a number above 0"),
        ("uniform:0", "num_frames=0 must be at least 1"),
        ("fps:1,uniform:4", "fps=1.0 and num_frames=4; give one of the two"),
        ("", "'' is empty"),
        ("fps:1,start:3,end:2", "end_s=2.0 must be after start_s=3.0"),
        ("fps:1,thinning:some", "'uniform' or 'stride'"),
        ("fps:nan", "above 0"),
    ],
)
def test_bad_rules_are_named(text, says):
    with pytest.raises(ValueError, match=says):
        FrameSampling.parse(text)


def test_a_clip_outside_the_video_is_named():
    with pytest.raises(ValueError, match=r"no frame between start_s=20.0 .* 100 frames at 10 fps \(10 s\)"):
        sample_indices(100, 10.0, FrameSampling(fps=1, start_s=20.0))
