"""Structured tower weights: similarity means something, and nothing of the library's architecture is bent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Model

from longvu_model import official
from longvu_model.image_processing import preprocess_frames
from longvu_model.initialization import initialize_towers, patch_filters
from longvu_model.presets import random_model, tiny
from longvu_model.towers import DinoTower, Towers
from pipelines.corpus import CorpusManifest
from tests.benchmarks.similarity import Clip, corpus_clips, read_clip, score, structured_tower, unstructured_tower

SHARED_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos"

# Cuts in seconds, found by looking at the frames. In pancake.mkv, one shot, they are where an arm leaves the lens and
# where a hand covers it.
CUTS_S = {
    "longvu_example.mp4": (3.5, 10.4, 16.9),
    "nasa_h264_two_streams.mp4": (5.3, 7.8),
    "pancake.mkv": (0.3, 8.8),
    "av1.mkv": (),
    "corrupted.mp4": (),
    "h264_10bit.mp4": (),
}


@pytest.fixture(scope="module")
def tower() -> DinoTower:
    return structured_tower()


@pytest.fixture(scope="module")
def clips(corpus: CorpusManifest) -> list[Clip]:
    return list(corpus_clips(corpus))


def test_corpus_scenes_are_told_apart_and_needles_kept(clips: list[Clip], tower: DinoTower) -> None:
    for clip in clips:
        scores = score(clip, tower)
        assert scores.within_lowest > 0.9, clip.name
        assert scores.between_highest is not None
        assert scores.between_highest < 0.8, clip.name
        assert scores.needle_kept, clip.name


def test_usual_weights_would_not_do(clips: list[Clip]) -> None:
    scores = [score(clip, unstructured_tower()) for clip in clips]
    assert any(s.within_lowest < 0.9 or not s.needle_kept for s in scores)


@pytest.mark.parametrize("name", CUTS_S)
def test_real_scenes_are_told_apart(name: str, tower: DinoTower) -> None:
    if not (SHARED_VIDEOS / name).is_file():
        pytest.skip("sample videos are not here")
    scores = score(read_clip(SHARED_VIDEOS / name, CUTS_S[name], fps=2.0, margin_s=0.6), tower)
    assert scores.within_lowest > 0.9
    assert (scores.between_highest is not None) == (len(CUTS_S[name]) > 0)
    assert scores.between_highest is None or scores.between_highest < 0.8


@pytest.mark.parametrize("seed", [1, 2])
def test_similarity_does_not_hang_on_the_seed(clips: list[Clip], tower: DinoTower, seed: int) -> None:
    first, other = score(clips[0], tower), score(clips[0], structured_tower(seed))
    assert other.within_lowest == pytest.approx(first.within_lowest, abs=0.01)
    assert other.between_highest == pytest.approx(first.between_highest, abs=0.06)


def features(tower: torch.nn.Module, frames: np.ndarray) -> torch.Tensor:
    pixels = preprocess_frames(frames, tower.image_size, tower.image_mean, tower.image_std)  # type: ignore[arg-type]
    with torch.inference_mode():
        return tower(pixels)


def test_padding_and_darkness_weigh_little(tower: DinoTower) -> None:
    """A wide grey picture is padding all over; black counts for less than white."""
    grey, black, white = (
        np.full((1, 54, 96, 3), colour, np.uint8) for colour in ((123, 116, 103), (0, 0, 0), (255, 255, 255))
    )
    size = {
        name: float(features(tower, frames).norm())
        for name, frames in (("grey", grey), ("black", black), ("white", white))
    }
    assert size["grey"] < 0.3 * size["black"] < 0.3 * size["white"]


def test_a_pattern_that_moves_within_its_place_changes_little(tower: DinoTower) -> None:
    """Stripes and hues that move along a bar keep their texture and saturation."""
    frames = np.full((4, 96, 96, 3), 123, np.uint8)
    rows = np.arange(40) // 8 % 2
    frames[0, 20:60][rows == 0] = frames[1, 20:60][rows == 1] = 220
    frames[2, 20:60] = (200, 60, 60)
    frames[3, 20:60] = (60, 60, 200)
    structured, usual = features(tower, frames).flatten(1), features(unstructured_tower(), frames).flatten(1)
    for one, other in ((0, 1), (2, 3)):
        ours, theirs = (float(torch.cosine_similarity(x[one], x[other], dim=0)) for x in (structured, usual))
        assert ours > theirs + 0.15


def test_siglip_tells_colours_and_shapes_within_a_patch_apart() -> None:
    siglip = random_model(tiny()).model.towers.siglip
    frames = np.full((4, 96, 96, 3), 127, np.uint8)
    frames[0, 40:48, 40:48] = (200, 40, 40)
    frames[1, 40:48, 40:48] = (40, 40, 200)
    frames[2, 40:44, 40:48] = frames[3, 40:48, 40:44] = (200, 40, 40)
    red, blue, upper, left = features(siglip, frames)[:, 5 * 12 + 5]
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(red, blue, dim=0)) < 0
    assert float(cosine(upper, left, dim=0)) < 0.8


def test_the_library_computes_the_same(tmp_path: Path) -> None:
    """The weights are plain DINOv2 weights: exported, the library's own model gives the same features."""
    config = tiny()
    config.dino_config.image_size = config.dino_image_size  # the library resizes position tables by another rule
    model = random_model(config)
    official.export(model, tmp_path)
    library = Dinov2Model.from_pretrained(tmp_path / "dinov2").eval()
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    ours = features(model.model.towers.dino, frames)
    pixels = preprocess_frames(frames, 96, DinoTower.image_mean, DinoTower.image_std)
    with torch.inference_mode():
        theirs = library(pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_filters_are_whole_orders_and_blind_to_darkness() -> None:
    tower = structured_tower()
    filters, order, chroma = patch_filters(tower, most=61)
    assert filters.shape == (45, 3, 8, 8)
    assert order.max() == 4
    black = -(torch.tensor(tower.image_mean) / torch.tensor(tower.image_std)).double()
    response = torch.einsum("kcij,c->k", filters, black)
    assert float(response[0]) < -2
    assert float(response[1:].abs().max()) < 1e-5
    assert chroma[:3].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "at least 2 blocks"),
        ({"use_swiglu_ffn": True}, "plain MLP"),
        ({"num_attention_heads": 1}, "at least 2 heads"),
        ({"hidden_size": 4, "num_attention_heads": 1}, "make the tower wider"),
    ],
)
def test_unsuitable_towers_are_refused(changes: dict[str, object], message: str) -> None:
    config = tiny()
    for field, value in changes.items():
        setattr(config.dino_config, field, value)
    with pytest.raises(ValueError, match=message):
        initialize_towers(Towers(config))
