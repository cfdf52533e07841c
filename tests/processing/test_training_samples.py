"""Training samples of every kind of file, and batches under both semantics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longvu_model.collation import Collator
from longvu_model.config import CORRECTED, IGNORE_INDEX, IMAGE_TOKEN_INDEX, PUBLISHED, LongVUConfig, Semantics
from longvu_model.geometry import content_rectangles
from longvu_model.image_processing import preprocess_frames
from longvu_model.labels import LabelledIds
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.tower_pixels import IMAGENET_MEAN, IMAGENET_STD, SIGLIP_MEAN, SIGLIP_STD, TowerPixels
from longvu_model.training_samples import TrainingSample, TrainingSamples, UnusableSample
from longvu_model.video import decode_frames
from tests.processing.clips import moving_frames, write_video

TOWERS = (TowerPixels(14, SIGLIP_MEAN, SIGLIP_STD), TowerPixels(12, IMAGENET_MEAN, IMAGENET_STD))
TOKENIZER = build_tiny_tokenizer("qwen")
PAD = TOKENIZER.pad_token_id
FRAMES = moving_frames(3, 10, 20)


def _record(question: str = "What?", answer: str = "A cat.", **media: str) -> dict[str, Any]:
    question = f"<video>\n{question}" if media else question
    return {**media, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    np.save(root / "clip.npy", FRAMES)
    pictures = [Image.fromarray(frame) for frame in FRAMES]
    pictures[0].save(root / "picture.png")
    for where in (root / "frames", root / "gifs"):
        where.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(root / "frames" / f"{i:03}.png")
    # Two colours survive the palette of a GIF exactly.
    flat = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    flat[0].save(root / "gifs" / "flat.gif", save_all=True, append_images=flat[1:], duration=100)
    write_video(root / "clip.mp4", moving_frames(30, 32, 48), fps=10)
    (root / "text.mp4").write_text("not a video")
    return root


def _samples(folder: Path, records: list[dict[str, Any]], rules: Semantics) -> TrainingSamples:
    return TrainingSamples(records, folder, TOKENIZER, "qwen", TOWERS, rules)


@pytest.mark.parametrize(
    ("media", "frames", "size", "pair"),
    [
        ({"image": "picture.png"}, FRAMES[:1], (10, 20), (20, 10)),
        ({"video": "clip.npy"}, FRAMES, (10, 20), (10, 20)),
        ({"video": "frames"}, FRAMES, (10, 20), (20, 10)),
        ({"video": "flat.gif"}, None, (10, 20), (20, 10)),
        ({"video": "clip.mp4"}, None, (32, 48), (32, 48)),
    ],
    ids=["image", "array", "folder", "gif", "video file"],
)
def test_every_kind_of_medium(
    folder: Path, media: dict[str, str], frames: np.ndarray | None, size: tuple[int, int], pair: tuple[int, int]
) -> None:
    if "flat.gif" in media.values():
        frames = np.stack([np.full((10, 20, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255))])
    elif frames is None:
        frames = decode_frames(folder / "clip.mp4", "fps:1").frames
        assert len(frames) == 3
    sample = _samples(folder, [_record(**media)], CORRECTED)[0]
    assert sample.pixels is not None
    for pixels, tower in zip(sample.pixels, TOWERS, strict=True):
        assert torch.equal(pixels, preprocess_frames(frames, tower.size, tower.mean, tower.std))
    assert (sample.size, sample.published_size) == (size, pair)
    assert sample.is_video == ("video" in media)
    assert sample.text.input_ids.count(IMAGE_TOKEN_INDEX) == 1


def test_text_only_samples(folder: Path) -> None:
    published, corrected = (_samples(folder, [_record()], rules)[0] for rules in (PUBLISHED, CORRECTED))
    assert corrected.pixels is None
    assert published.pixels is not None
    assert [tuple(pixels.shape) for pixels in published.pixels] == [(1, 3, 14, 14), (1, 3, 12, 12)]
    assert not any(pixels.any() for pixels in published.pixels)
    assert published.published_size == (336, 336)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_record(video="missing.npy"), r"sample 1 \(missing.npy\): .*No such file"),
        (_record(video="text.mp4"), r"sample 1 \(text.mp4\): .*text.mp4"),
        (_record(image="nowhere.png"), r"sample 1 \(nowhere.png\): .*No such file"),
        ({"image": "picture.png"}, r"sample 1 \(picture.png\): .* it needs 'conversations'"),
        (
            {"conversations": [{"from": "human", "value": "Hi"}]},
            r"sample 1 \(text only\): none of its tokens is learned",
        ),
    ],
)
def test_unusable_samples_are_named_or_published_replaces_them(
    folder: Path, record: dict[str, Any], reason: str
) -> None:
    records = [_record(image="picture.png"), record]
    with pytest.raises(UnusableSample, match=reason) as caught:
        _samples(folder, records, CORRECTED)[1]
    assert caught.value.index == 1
    # Published labels learn the markers of an unanswered question, so that one is usable there.
    usable = not {"image", "video"} & set(record)
    assert _samples(folder, records, PUBLISHED)[1].index == (1 if usable else 0)


def test_nothing_replaces_an_unusable_first_sample(folder: Path) -> None:
    with pytest.raises(UnusableSample, match="sample 0"):
        _samples(folder, [_record(video="missing.npy")], PUBLISHED)[0]


def test_a_data_set_is_a_sequence(folder: Path, tmp_path: Path) -> None:
    records = [_record(), _record(image="picture.png")]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    samples = TrainingSamples(path, folder, TOKENIZER, "qwen", TOWERS, CORRECTED)
    assert [sample.index for sample in samples] == [0, 1]
    assert samples[-1].index == 1
    with pytest.raises(IndexError):
        samples[2]
    with pytest.raises(ValueError, match="empty data set"):
        _samples(folder, [], CORRECTED)


def test_lengths_for_grouping(folder: Path) -> None:
    records = [_record("one two", "three"), _record("one", "two", image="a"), _record("one", "two three", video="b")]
    for rules, signs in ((PUBLISHED, (-1, 1, -1)), (CORRECTED, (-1, 1, 1))):
        samples = _samples(folder, records, rules)
        assert samples.modality_lengths() == [3 * signs[0], 3 * signs[1], 4 * signs[2]]
        assert samples.lengths(image_token_len=9) == [3, 12, 13]


def _collator(rules: Semantics = CORRECTED, **fields: Any) -> Collator:
    defaults = {"max_length": 200, "pad_token_id": PAD, "full_grid": 3, "token_grid": 6}
    return Collator(**{**defaults, **fields}, rules=rules)


@pytest.mark.parametrize("side", ["left", "right"])
def test_corrected_batches(folder: Path, side: str) -> None:
    records = [_record(video="clip.npy"), _record("Is it a longer question?"), _record(image="picture.png")]
    samples = list(_samples(folder, records, CORRECTED))
    batch = _collator(padding_side=side)(samples)
    lengths = [len(sample.text.input_ids) for sample in samples]
    assert batch["input_ids"].shape == (3, max(lengths))
    for b, sample in enumerate(samples):
        real = batch["attention_mask"][b]
        assert int(real.sum()) == lengths[b]
        assert batch["input_ids"][b][real].tolist() == sample.text.input_ids
        assert batch["labels"][b][real].tolist() == sample.text.labels
        assert batch["position_ids"][b][real].tolist() == list(range(lengths[b]))
        assert set(batch["input_ids"][b][~real].tolist()) <= {PAD}
        assert set(batch["labels"][b][~real].tolist()) <= {IGNORE_INDEX}
    assert batch["frame_counts"].tolist() == [3, 1]
    assert batch["is_video"].tolist() == [True, False]
    assert batch["image_sizes"].tolist() == [[10, 20], [10, 20]]
    assert batch["size_swapped"].tolist() == [True, False]
    assert batch["pixel_values_siglip"].shape == (4, 3, 14, 14)
    assert 0 not in batch["input_ids"]
    assert "aux_attention_mask_0" not in batch


def test_corrected_text_batches_have_no_media(folder: Path) -> None:
    batch = _collator()(list(_samples(folder, [_record(), _record()], CORRECTED)))
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "position_ids"]


def test_corrected_batches_are_cut_but_not_in_front_of_their_medium(folder: Path) -> None:
    samples = [_samples(folder, [_record(image="picture.png", answer="word " * 100)], CORRECTED)[0]]
    slot = samples[0].text.input_ids.index(IMAGE_TOKEN_INDEX)
    assert _collator(max_length=slot + 1)(samples)["input_ids"].shape == (1, slot + 1)
    with pytest.raises(UnusableSample, match=rf"sample 0 .*0 <image> slots within {slot} ids, 1 media"):
        _collator(max_length=slot)(samples)


def plain_published_row(
    ids: list[int], labels: list[int], max_length: int, side: int, rectangle: list[int], image_position: int
) -> tuple[list[int], list[int], list[bool], list[int]]:
    """One published row, position by position as specified."""
    ids = (ids + [PAD] * max_length)[:max_length]
    labels = (labels + [IGNORE_INDEX] * max_length)[:max_length]
    mask = [token != PAD for token in ids]
    if IMAGE_TOKEN_INDEX not in ids:
        ids.insert(image_position, IMAGE_TOKEN_INDEX)
        labels.insert(image_position, IGNORE_INDEX)
        mask.insert(image_position, False)
    row0, row1, column0, column1 = rectangle
    out: tuple[list[int], list[int], list[bool], list[int]] = ([], [], [], [])
    position = 0
    for token, label, real in zip(ids, labels, mask, strict=True):
        if token != IMAGE_TOKEN_INDEX:
            for column, value in zip(out, (token, label, real, position), strict=True):
                column.append(value)
            position += 1
            continue
        for row in range(side):
            for column in range(side + 1):
                visible = real and row0 <= row < row1 and (column == side or column0 <= column < column1)
                position += visible
                out[0].append(token if row == column == 0 else 0)
                out[1].append(IGNORE_INDEX)
                out[2].append(visible)
                out[3].append(position - 1 if real else 0)
    return tuple(column[:max_length] for column in out)  # type: ignore[return-value]


@given(
    ids=st.lists(st.sampled_from([1, 2, 3, PAD, IMAGE_TOKEN_INDEX]), max_size=40),
    max_length=st.integers(1, 60),
    side=st.integers(1, 4),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    image_position=st.integers(0, 30),
)
def test_published_rows_as_specified(
    ids: list[int], max_length: int, side: int, size: tuple[int, int], image_position: int
) -> None:
    labels = [token if token % 2 else IGNORE_INDEX for token in ids]
    pixels = (torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    sample = TrainingSample(0, LabelledIds(ids, labels), pixels, size)
    collate = _collator(
        PUBLISHED, max_length=max_length, full_grid=side, token_grid=2 * side, image_position=image_position
    )
    batch = collate([sample])
    rectangle = content_rectangles(side, torch.tensor([size[::-1]]).double())[0].tolist()
    expected = plain_published_row(ids, labels, max_length, side, rectangle, min(image_position, max_length))
    for name, column in zip(("input_ids", "labels", "attention_mask", "position_ids"), expected, strict=True):
        assert batch[name][0].tolist() == column, name
    assert batch["aux_attention_mask_0"].shape == (1, side * side, 4)


def test_swapped_sizes_crop_the_other_way(folder: Path) -> None:
    sample = _samples(folder, [_record(video="clip.npy")], PUBLISHED)[0]
    slot = sample.text.input_ids.index(IMAGE_TOKEN_INDEX)
    masks = [
        _collator(PUBLISHED)([replace(sample, size_swapped=swapped)])["attention_mask"][0, slot : slot + 12].view(3, 4)
        for swapped in (True, False)
    ]
    # A picture of 10 x 20 read as 20 x 10 loses columns instead of rows.
    assert masks[0].int().tolist() == [[0, 1, 0, 1]] * 3
    assert masks[1].int().tolist() == [[0] * 4, [1] * 4, [0] * 4]


def test_collator_from_config() -> None:
    config = LongVUConfig(max_sequence_length=99, padding_side="left", full_grid=12, token_grid=24)
    expected = Collator(
        max_length=99, pad_token_id=PAD, full_grid=12, token_grid=24, rules=CORRECTED, padding_side="left"
    )
    assert Collator.from_config(config, PAD) == expected
    with pytest.raises(ValueError, match="max_sequence_length is None"):
        Collator.from_config(LongVUConfig(max_sequence_length=None), PAD)
