"""Splits to learn needles from: stills and videos that agree with their annotations, and unseen ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config import load_config
from pipelines.corpus import CorpusError, CorpusManifest, Splits, SplitsConfig, plan_corpus, write_splits
from pipelines.corpus.needle import COLOURS, MORE_COLOURS
from pipelines.corpus.writer import draw_frames

SHIPPED = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "corpus_demo.yaml"
CONFIG = SplitsConfig(stills=8, videos=2, heldout=2, seconds=28, fps=2)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return write_splits(tmp_path_factory.mktemp("splits"), CONFIG)


def test_the_shipped_configuration_loads_and_shows_more_frames_than_fit() -> None:
    config = load_config(SplitsConfig, SHIPPED)
    assert config == SplitsConfig()
    assert config.seconds > 1024 / 20  # the tiny model's context, and its tokens of a square frame at low resolution


def test_every_still_shows_the_colour_that_its_annotation_names(splits: Splits) -> None:
    rows = json.loads(splits.stills.read_text())
    plans = {plan.video_id: plan for plan in plan_corpus(CONFIG.corpus("stills"))}
    assert Counter(row["conversations"][1]["value"] for row in rows) == dict.fromkeys(CONFIG.colours, 1)
    for row in rows:
        picture = np.asarray(Image.open(splits.folder / row["image"]).convert("RGB")).astype(float)
        x, y = map(round, plans[row["id"]].needle.centre_xy)
        colour = (COLOURS | MORE_COLOURS)[row["conversations"][1]["value"]]
        assert np.abs(picture[y - 3 : y + 3, x - 3 : x + 3].mean((0, 1)) - colour).max() < 40


def test_annotations_name_videos_from_one_root_and_no_video_is_in_two_splits(splits: Splits) -> None:
    train, heldout = (json.loads(path.read_text()) for path in (splits.train, splits.heldout))
    assert (len(train), len(heldout)) == (2, 2)
    names = [row["video"] for row in train + heldout]
    assert all((splits.folder / name).is_file() for name in names)
    assert len({(splits.folder / name).read_bytes() for name in names}) == 4
    assert {path.name for folder in splits.media for path in folder.iterdir()} >= {Path(name).name for name in names}


def test_chosen_frames_are_those_of_the_whole_video() -> None:
    config = CONFIG.corpus("videos")
    plan = plan_corpus(config)[0]
    everything = list(draw_frames(plan, config))
    chosen = list(draw_frames(plan, config, only=(3, len(everything) - 1)))
    assert [np.asarray(frame).tobytes() for frame in chosen] == [
        np.asarray(everything[place]).tobytes() for place in (3, -1)
    ]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path: Path, splits: Splits) -> None:
    def stop_after_train(done: int, total: int) -> None:
        assert total == 12
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_splits(tmp_path, CONFIG, stop_after_train)
    train = CorpusManifest.load(tmp_path / "train")
    before = [path.stat().st_mtime_ns for path in train.videos]
    again = write_splits(tmp_path, CONFIG)
    assert [path.stat().st_mtime_ns for path in train.videos] == before
    for path in sorted(splits.folder.rglob("*.*")):
        assert (again.folder / path.relative_to(splits.folder)).read_bytes() == path.read_bytes()
    with pytest.raises(CorpusError, match="another configuration"):
        write_splits(tmp_path, CONFIG.changed(seed=1))
