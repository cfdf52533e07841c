"""Opening pictures and videos from everything that is accepted, and naming what is not."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from longvu_model.image_processing import LongVUImageProcessor
from longvu_model.media import load_image
from longvu_model.video import FrameSampling, Missing, NotAVideo, decode_frames
from longvu_model.video_processing import LongVUVideoProcessor, flatten_videos, load_video
from tests.processing.clips import moving_frames, write_video

FRAME = moving_frames(1, 12, 20)[0]
ONE_PER_SECOND = FrameSampling(fps=1.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", moving_frames(50, 32, 48), fps=10)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png(Image.fromarray(FRAME))


@pytest.mark.parametrize(
    "source",
    [
        Image.fromarray(FRAME),
        FRAME,
        torch.from_numpy(FRAME),
        PNG,
        bytearray(PNG),
        io.BytesIO(PNG),
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_pictures_of_every_kind(source: Any) -> None:
    assert np.array_equal(np.asarray(load_image(source)), FRAME)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_as_in_videos(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(FRAME).save(buffer, "PNG", exif=exif)
    upright = decode_frames(buffer.getvalue()).frames[0]
    assert np.array_equal(np.asarray(load_image(buffer.getvalue())), upright)
    with Image.open(buffer) as opened:
        assert np.array_equal(np.asarray(load_image(load_image(opened))), upright)
    assert np.array_equal(upright, FRAME) == (orientation == 1)


def test_pictures_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for source in (path, str(path), f"file://{path}"):
        assert np.array_equal(np.asarray(load_image(source)), FRAME)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.png", "only local files are opened here"),
        (b"no picture", "the given bytes: not a picture that Pillow can read"),
        (PNG[: len(PNG) // 2], "the given bytes: not a picture that Pillow can read"),
        ("data:image/png;base64,!", "base64 image"),
        (3, "an image of type int: give a path, bytes, uint8 array or PIL picture"),
        (FRAME.astype(np.float32), "give uint8"),
    ],
)
def test_bad_pictures_are_named(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source)


def test_missing_picture() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.png"):
        load_image("nowhere.png")


def test_video_from_path_and_bytes_is_what_the_decoder_gives(clip: Path) -> None:
    expected = decode_frames(clip, ONE_PER_SECOND)
    assert len(expected.frames) == 5
    for source in (clip, str(clip), f"file://{clip}", clip.read_bytes(), io.BytesIO(clip.read_bytes()), expected):
        medium = load_video(source, ONE_PER_SECOND)
        assert np.array_equal(np.asarray(medium.frames), expected.frames)
        assert medium.is_video
        assert medium.size == (32, 48)
        assert medium.metadata is not None
        assert medium.metadata["frames_indices"] == [0, 10, 20, 30, 40]
        assert medium.metadata["timestamps_s"] == pytest.approx([0, 1, 2, 3, 4])


def test_arrays_and_pictures_are_taken_as_sampled() -> None:
    frames = moving_frames(30, 8, 8)
    for source in (frames, torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames], list(frames)):
        medium = load_video(source, ONE_PER_SECOND)
        assert len(medium.frames) == 30
        assert medium.metadata is None


def test_cut_video_gives_its_prefix_with_a_warning(
    clip: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size * 7 // 10])
    medium = load_video(cut, FrameSampling(fps=10))
    assert 0 < len(medium.frames) < 50
    assert medium.metadata is not None
    assert medium.metadata["truncated"]
    assert f"{cut} is cut or damaged: {len(medium.frames)} frames of its good prefix" in caplog.text
    caplog.clear()
    load_video(clip, ONE_PER_SECOND)
    assert caplog.text == ""


def test_bad_videos_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(NotAVideo, match=r"text.mp4"):
        load_video(text, ONE_PER_SECOND)
    with pytest.raises(Missing, match=r"nowhere.mp4"):
        load_video("nowhere.mp4", ONE_PER_SECOND)
    with pytest.raises(ValueError, match="only local files are opened here"):
        load_video("http://example.org/a.mp4", ONE_PER_SECOND)
    with pytest.raises(ValueError, match="a video of type dict: give a path"):
        load_video({}, ONE_PER_SECOND)


def test_lists_of_videos() -> None:
    frames = moving_frames(4, 8, 8)
    pictures = [Image.fromarray(frame) for frame in frames]
    assert len(flatten_videos("a.mp4")) == 1
    assert len(flatten_videos(["a.mp4", Path("b.mp4")])) == 2
    assert len(flatten_videos([["a.mp4"], ["b.mp4", "c.mp4"]])) == 3
    assert flatten_videos(pictures) == [pictures]
    assert flatten_videos([pictures, pictures]) == [pictures, pictures]
    assert len(flatten_videos([frames, frames])) == 2
    assert len(flatten_videos(list(frames))) == 1
    assert flatten_videos([]) == []


def test_video_processor_samples_as_told(clip: Path) -> None:
    processor = LongVUVideoProcessor(siglip_size=8, dino_size=6)
    counts = {
        None: 5,
        ("fps", 2.0): 10,
        ("num_frames", 7): 7,
        ("max_frames", 3): 3,
        ("sampling", "fps:10,max:20"): 20,
        ("sampling", FrameSampling(fps=1.0, start_s=2)): 3,
    }
    for option, count in counts.items():
        inputs = processor(str(clip), **dict([option] if option else []))
        assert inputs["frame_counts"].tolist() == [count]
        assert inputs["pixel_values_siglip"].shape == (count, 3, 8, 8)
        assert inputs["pixel_values_dino"].shape == (count, 3, 6, 6)


def test_video_processor_reports_times(clip: Path) -> None:
    inputs = LongVUVideoProcessor(siglip_size=8, dino_size=6)([str(clip)], return_metadata=True, num_frames=2)
    assert inputs["video_metadata"][0]["frames_indices"] == [0, 49]


@pytest.mark.parametrize(
    "options", [{"fps": 1.0, "num_frames": 3}, {"fps": 0.0}, {"num_frames": 0}, {"sampling": "fps:x"}, {"colour": 1}]
)
def test_bad_call_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LongVUVideoProcessor(siglip_size=8, dino_size=6)(moving_frames(2, 8, 8), **options)


def test_bad_processor_fields() -> None:
    with pytest.raises(ValueError, match="fps=-1"):
        LongVUVideoProcessor(fps=-1)
    with pytest.raises(ValueError, match="tower input size 0"):
        LongVUImageProcessor(siglip_size=0)


def test_image_processor_takes_nested_lists() -> None:
    inputs = LongVUImageProcessor(siglip_size=8, dino_size=6)([[PNG], [FRAME, Image.fromarray(FRAME)]])
    assert inputs["frame_counts"].tolist() == [1, 1, 1]
    assert inputs["is_video"].tolist() == [False] * 3
    assert torch.equal(inputs["pixel_values_dino"][0], inputs["pixel_values_dino"][2])
