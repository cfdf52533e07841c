"""Media that are not in the store: measured as they will be decoded, encoded as the store would have it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longvu_model.video import FrameSampling
from pipelines.train.online import measure
from pipelines.train.samples import Kind, MediaRef, Unusable
from pipelines.train.visibility import load_stored
from tests.pipelines.train.conftest import Library

RULE = FrameSampling(fps=1.0)


def ref(library: Library, path: str, kind: Kind = "video", **fields: float) -> MediaRef:
    return MediaRef(kind, path, f"file://{library.media}/{path}", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "kind", "frames", "size"),
    [
        ("scenes.mp4", "video", 20, (64, 96)),
        ("new_frames.npy", "video", 5, (48, 80)),
        ("new_folder", "video", 3, (32, 32)),
        ("new_picture.png", "image", 1, (48, 80)),
    ],
)
def test_a_medium_is_what_it_was_measured_to_be(
    library: Library, path: str, kind: Kind, frames: int, size: tuple[int, int]
) -> None:
    medium = ref(library, path, kind)
    found = measure(medium, RULE)
    assert (found.num_frames, found.size) == (frames, size)
    kept = library.online().encode(medium, 40)
    assert (kept.num_sampled, kept.size) == (frames, size)
    assert len(kept.dino_KPD) == len(kept.siglip_KPD) == frames


def test_a_picture_on_its_side_is_measured_upright(library: Library, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    medium = MediaRef("image", "turned.jpg", f"file://{tmp_path}/turned.jpg")
    assert measure(medium, RULE).size == (20, 10)
    assert library.online().encode(medium, 40).size == (20, 10)


def test_a_folder_is_in_the_order_of_its_numbers(library: Library) -> None:
    """8, 9, 10; by name 10 would be the first."""
    encoder = library.online()
    whole = encoder.encode(ref(library, "new_folder"), 40).dino_KPD
    numbered = [encoder.encode(ref(library, f"new_folder/frame{number}.png", "image"), 40) for number in (8, 9, 10)]
    torch.testing.assert_close(whole, torch.cat([one.dino_KPD for one in numbered]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("path", "reduced"), [("scenes.mp4", False), ("sub/long.mp4", True)])
def test_encoded_online_or_stored_is_the_same(library: Library, path: str, reduced: bool) -> None:
    """Within what float16 rounds away; the same frames."""
    config = library.model.config

    medium = ref(library, path)
    online = library.online().encode(medium, 40)
    (row,) = [r for r in library.stored.videos(["video_id", "source"]).to_pylist() if r["source"] == medium.uri]
    stored = load_stored(
        library.stored, dataclasses.replace(medium, video_id=row["video_id"], reduced=reduced), config.dino_threshold
    )
    assert online.places == stored.places
    assert (len(online.places) < online.num_sampled) == reduced
    assert (online.num_sampled, online.size) == (stored.num_sampled, stored.size)
    for ours, theirs in ((online.dino_KPD, stored.dino_KPD), (online.siglip_KPD, stored.siglip_KPD)):
        assert theirs.dtype == torch.float16
        torch.testing.assert_close(ours.half(), theirs, rtol=2e-3, atol=2e-3)


def test_a_clip_of_a_file_is_its_part(library: Library) -> None:
    medium = ref(library, "scenes.mp4", start_s=3.0, end_s=9.0)
    assert measure(medium, RULE).num_frames == 6
    part = library.online().encode(medium, 40)
    whole = library.online().encode(ref(library, "scenes.mp4"), 40)
    torch.testing.assert_close(part.dino_KPD, whole.dino_KPD[3:9], rtol=1e-5, atol=1e-5)


def test_a_clip_of_a_stored_video_is_its_part(library: Library) -> None:
    medium = ref(library, "scenes.mp4", start_s=3.0, end_s=9.0)
    (row,) = [r for r in library.stored.videos(["video_id", "source"]).to_pylist() if r["source"] == medium.uri]
    stored = load_stored(library.stored, dataclasses.replace(medium, video_id=row["video_id"]), 0.83)
    assert (stored.num_sampled, stored.places) == (6, [0, 1, 2, 3, 4, 5])
    online = library.online().encode(medium, 40)
    torch.testing.assert_close(stored.dino_KPD, online.dino_KPD.half(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("path", "kind", "cause"),
    [
        ("broken.mp4", "video", "NotAVideo"),
        ("gone.mp4", "video", "Missing"),
        ("gone.png", "image", "Missing"),
        ("new_broken.jpg", "image", "NotAPicture"),
        ("bad.npy", "video", "NotAVideo"),
        ("pickle.npy", "video", "NotAVideo"),
        ("empty", "video", "NotAVideo"),
    ],
)
def test_what_cannot_be_read_is_named(library: Library, path: str, kind: Kind, cause: str) -> None:
    np.save(library.media / "bad.npy", np.zeros((3, 4), np.float32))
    np.save(library.media / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (library.media / "empty").mkdir(exist_ok=True)
    medium = ref(library, path, kind)
    for read in (lambda: measure(medium, RULE), lambda: library.online().encode(medium, 40)):
        with pytest.raises(Unusable) as caught:
            read()
        assert caught.value.cause == cause
        assert path in str(caught.value)
