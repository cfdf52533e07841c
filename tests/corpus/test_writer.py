"""A written corpus: real video files that show what their questions ask about."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from longvu_model.semantics import CORRECTED
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD, TowerPixels
from longvu_model.training_samples import TrainingSamples
from longvu_model.video import FrameSampling, decode_frames, probe
from pipelines.corpus import CorpusConfig, CorpusError, CorpusManifest, plan_corpus, write_corpus
from pipelines.corpus.needle import COLOURS
from tests.corpus.conftest import SMALL


def rows(corpus: CorpusManifest) -> list[dict[str, Any]]:
    return [json.loads(line) for line in corpus.questions.read_text().splitlines()]


def test_videos_are_h264_with_b_frames_and_long_gops(corpus: CorpusManifest) -> None:
    assert len(corpus.videos) == SMALL.num_videos
    for video in corpus.videos:
        info = probe(video)
        assert (info.codec, info.width, info.height, info.avg_fps) == ("h264", 320, 180, 5)
        with av.open(str(video)) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == SMALL.frames_per_video
        types = Counter(av.video.frame.PictureType(frame.pict_type).name for frame in frames)
        assert types["B"] > types["P"] > types["I"] >= 1
        keys = [number for number, frame in enumerate(frames) if frame.key_frame]
        assert max(np.diff([*keys, len(frames)])) <= SMALL.gop


def test_the_needle_is_where_and_when_the_row_says(corpus: CorpusManifest) -> None:
    for row in rows(corpus):
        needle = row["needle"]
        video = decode_frames(corpus.directory / row["video"], FrameSampling(fps=SMALL.fps))
        x, y = map(round, needle["centre_xy"])
        patch = video.frames[:, y - 4 : y + 4, x - 4 : x + 4].astype(float).mean((1, 2))
        near = np.abs(patch - COLOURS[needle["colour"]]).max(1) < 40
        inside = (video.pts_s >= needle["start_s"] + 0.3) & (video.pts_s < needle["end_s"] - 0.3)
        outside = (video.pts_s < needle["start_s"] - 0.1) | (video.pts_s >= needle["end_s"] + 0.1)
        assert near[inside].all()
        assert not near[outside].any()


def test_cuts_are_where_the_row_says(corpus: CorpusManifest) -> None:
    for row in rows(corpus):
        video = decode_frames(corpus.directory / row["video"], FrameSampling(fps=SMALL.fps))
        change = np.abs(np.diff(video.frames.astype(float), axis=0)).mean((1, 2, 3))
        cuts = [round(cut * SMALL.fps) - 1 for cut in row["scene_cuts_s"]]
        rest = np.delete(change, cuts)
        # The needle comes and goes within a few frames; everything else changes slowly.
        assert min(change[cuts]) > 3 * np.median(rest)
        assert np.quantile(rest, 0.95) < 4


def test_annotations_train_what_the_questions_ask(corpus: CorpusManifest) -> None:
    asked = {row["question_id"]: row for row in rows(corpus)}
    annotations = json.loads(corpus.annotations.read_text())
    assert len(annotations) == len(asked) == corpus.num_questions == 8
    for sample in annotations:
        row = asked[sample["id"]]
        human, gpt = sample["conversations"]
        assert (corpus.directory / sample["video"]).is_file()
        assert sample["video"] == row["video"]
        assert human["from"] == "human"
        assert human["value"].startswith("<video>\n")
        assert row["question"] in human["value"]
        for letter, option in zip("ABCDEF", row["options"], strict=False):
            assert f"({letter}) {option}\n" in human["value"]
        assert gpt == {"from": "gpt", "value": row["answer_letter"]}


def test_the_trainer_reads_the_annotations(corpus: CorpusManifest) -> None:
    tokenizer = build_tiny_tokenizer("qwen", 1024)
    towers = (TowerPixels(96, SIGLIP_MEAN, SIGLIP_STD), TowerPixels(96, IMAGENET_MEAN, IMAGENET_STD))
    samples = TrainingSamples(corpus.annotations, corpus.directory, tokenizer, "qwen", towers, CORRECTED)
    annotations = json.loads(corpus.annotations.read_text())
    assert len(samples) == len(annotations)
    sample = samples[0]
    assert sample.is_video
    assert sample.pixels is not None
    assert sample.pixels[0].shape == (36, 3, 96, 96)
    learned = tokenizer.decode([label for label in sample.text.labels if label >= 0], skip_special_tokens=True)
    assert learned.removeprefix("assistant").strip() == annotations[0]["conversations"][1]["value"]


def test_answers_can_be_texts(tmp_path: Path) -> None:
    config = replace(SMALL, num_videos=1, answer_form="text", kinds=("shape",))
    corpus = write_corpus(tmp_path, config)
    [sample] = json.loads(corpus.annotations.read_text())
    [row] = rows(corpus)
    assert sample["conversations"][0]["value"] == "<video>\nWhich shape appears briefly?"
    assert sample["conversations"][1]["value"] == row["answer"] == plan_corpus(config)[0].needle.shape


def test_the_same_config_gives_the_same_bytes(corpus: CorpusManifest, tmp_path: Path) -> None:
    again = write_corpus(tmp_path, SMALL)
    for one, other in zip(corpus.videos, again.videos, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert corpus.questions.read_bytes() == again.questions.read_bytes()
    assert corpus.annotations.read_bytes() == again.annotations.read_bytes()


def test_finished_work_is_skipped(corpus: CorpusManifest) -> None:
    before = [video.stat().st_mtime_ns for video in corpus.videos]
    calls: list[tuple[int, int]] = []
    assert write_corpus(corpus.directory, SMALL, lambda *call: calls.append(call)) == corpus
    assert [video.stat().st_mtime_ns for video in corpus.videos] == before
    assert not calls


def test_an_interrupted_corpus_is_started_over(corpus: CorpusManifest, tmp_path: Path) -> None:
    def stop(count: int, total: int) -> None:
        assert total == SMALL.num_videos
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path, SMALL, stop)
    (tmp_path / "videos" / f"{corpus.videos[1].stem}.partial").write_bytes(b"half a video")
    with pytest.raises(CorpusError, match="no finished corpus"):
        CorpusManifest.load(tmp_path)
    finished = write_corpus(tmp_path, SMALL)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [video.name for video in corpus.videos]
    assert finished.videos[0].read_bytes() == corpus.videos[0].read_bytes()


def test_what_is_not_ours_is_left_alone(corpus: CorpusManifest, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="corpus of another configuration"):
        write_corpus(corpus.directory, CorpusConfig(seed=9))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(CorpusError, match="holds holiday, which is not of this corpus"):
        write_corpus(tmp_path, SMALL)


def test_a_lost_video_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, replace(SMALL, num_videos=1))
    corpus.videos[0].unlink()
    with pytest.raises(CorpusError, match=f"{corpus.videos[0].name} is in the manifest but gone"):
        CorpusManifest.load(tmp_path)
