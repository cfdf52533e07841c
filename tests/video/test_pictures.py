"""Pictures and animations as videos of one or a few frames."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from longvu_model.video import TooLarge, decode_frames, probe
from tests.video.clips import clip, picture


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_picture_is_one_frame_as_pillow_reads_it(kind):
    data = _encoded(Image.fromarray(picture(3)), kind)
    video = decode_frames(data, "fps:1")
    with Image.open(io.BytesIO(data)) as expected:
        assert np.array_equal(video.frames, np.asarray(expected.convert("RGB"))[None])
    assert video.indices.tolist() == [0]
    assert video.pts_s.tolist() == [0.0]
    assert video.codec == kind.lower()
    assert (video.fps, video.duration_s, video.truncated) == (1.0, 0.0, False)
    info = probe(data)
    assert (info.width, info.height, info.num_frames) == (96, 64, 1)


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, -90), (8, 90)])
def test_exif_orientation_is_applied(orientation, degrees):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(picture(3))
    video = decode_frames(_encoded(stored, "PNG", exif=exif), "fps:1")
    assert np.array_equal(video.frames[0], np.rot90(picture(3), degrees // 90))
    assert video.rotation_applied == degrees
    assert (video.summary.height, video.summary.width) == video.frames.shape[1:3]


def test_transparency_is_dropped():
    image = Image.fromarray(np.dstack([picture(0), np.full((64, 96), 7, np.uint8)]))
    assert np.array_equal(decode_frames(_encoded(image, "PNG")).frames[0], picture(0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_a_video(kind):
    images = [Image.fromarray(picture(number)) for number in range(10)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encoded(images[0], kind, save_all=True, append_images=images[1:], duration=200, **options)
    video = decode_frames(data, "fps:1")
    assert video.indices.tolist() == [0, 5]
    assert np.allclose(video.pts_s, [0.0, 1.0])
    assert np.array_equal(video.frames, np.stack([picture(0), picture(5)]))
    assert (video.fps, video.duration_s) == (5.0, 2.0)


def test_a_gif_is_a_video():
    video = decode_frames(clip("gif"), "fps:2")
    assert video.frames.shape == (4, 64, 96, 3)
    assert np.allclose(video.pts_s, [0.0, 0.5, 1.0, 1.5])


def test_text_that_inflates_is_refused():
    text = PngInfo()
    text.add_text("Comment", "a" * (2 << 20), zip=True)
    with pytest.raises(TooLarge, match="Decompressed data too large"):
        decode_frames(_encoded(Image.fromarray(picture(0)), "PNG", pnginfo=text))


def test_both_backends_read_pictures():
    data = _encoded(Image.fromarray(picture(3)), "PNG")
    assert np.array_equal(decode_frames(data, backend="decord").frames, decode_frames(data).frames)
