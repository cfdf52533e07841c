"""Whatever is wrong with a source, the user reads one line of the right class that names it."""

from __future__ import annotations

import io
import os
import pickle

import av
import numpy as np
import pytest
from PIL import Image

from longvu_model.video import (
    VIDEO_ERRORS,
    Corrupt,
    Forbidden,
    Missing,
    NotAVideo,
    TooLarge,
    Truncated,
    Unsupported,
    decode_frames,
    iter_frame_blocks,
    probe,
)
from tests.video.clips import CLIPS, Clip, clip


def _sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _sound_with_cover() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "JPEG")
    body = b"\x00image/jpeg\x00\x03\x00" + picture.getvalue()
    tag = b"APIC" + len(body).to_bytes(4, "big") + b"\x00\x00" + body
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + tag + _sound_only()


_PLAYLIST = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nother.ts\n#EXT-X-ENDLIST\n"

_BAD_FILES = {
    "empty.mp4": (lambda: b"", NotAVideo, "is empty"),
    "notes.mp4": (lambda: b"these are only notes\n" * 200, NotAVideo, "no known container"),
    "noise.mp4": (lambda: np.random.default_rng(1).bytes(50_000), NotAVideo, "no known container"),
    "list.m3u8": (lambda: _PLAYLIST, NotAVideo, "no known container"),
    "sound.mp3": (_sound_only, NotAVideo, "no video stream (it holds: audio)"),
    "cover.mp3": (_sound_with_cover, NotAVideo, "a cover picture and no video"),
    "half.mp4": (lambda: clip("h264_b_frames")[:9000], Truncated, "cut short before its first frame"),
    "start.mkv": (lambda: clip("h264_mkv")[:700], Truncated, "cut short before its first frame"),
    "scratched.mkv": (lambda: clip("h264_mkv")[:4] + bytes(5000), Corrupt, "its header is damaged"),
    "foreign.mp4": (lambda: clip("h264_b_frames").replace(b"avc1", b"zzzz"), Unsupported, "no decoder"),
    "cut.jpg": (lambda: _jpeg()[:700], Truncated, "cut short"),
    "broken.png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), Corrupt, "header is damaged"),
    "wide.mkv": (lambda: _strip(100_000, 1), TooLarge, "have an edge of more than 16384 pixels"),
    "tall.png": (lambda: _png(1, 100_000), TooLarge, "have an edge of more than 16384 pixels"),
}


def _strip(width: int, height: int) -> bytes:
    return Clip("ffv1", "matroska", 2, 2, width=width, height=height).encode()


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("name", _BAD_FILES)
def test_bad_files(tmp_path, name):
    make, error, says = _BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(make())
    for read in (decode_frames, probe):
        with pytest.raises(error) as caught:
            read(path)
        assert type(caught.value) is error
        assert says in caught.value.message
        assert str(path) in caught.value.message
        assert "\n" not in str(caught.value)
        assert caught.value.code == error.__name__


def test_missing_folder_and_device(tmp_path):
    for path, error in ((tmp_path / "no.mp4", Missing), (tmp_path / "no" / "no.mp4", Missing), (tmp_path, NotAVideo)):
        with pytest.raises(error, match=str(path)):
            decode_frames(path)
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        with pytest.raises(NotAVideo, match="not a regular file"):
            decode_frames(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden(tmp_path):
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip("h264_b_frames"))
    path.chmod(0)
    with pytest.raises(Forbidden, match="not allowed to read"):
        decode_frames(path)


def test_forbidden_from_the_system(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("longvu_model.video.container.os.stat", refuse)
    with pytest.raises(Forbidden, match="not allowed to read"):
        decode_frames(tmp_path / "secret.mp4")


def test_too_large():
    with pytest.raises(TooLarge, match="frames of 96x64 have 6144 pixels, allowed are 5000"):
        decode_frames(clip("h264_b_frames"), max_pixels=5000)
    with pytest.raises(TooLarge, match="64x64 have 4096 pixels"):
        decode_frames(_jpeg(), max_pixels=4000)
    with pytest.raises(TooLarge, match=r"72 frames of 96x64 take 1327104 bytes.*iter_frame_blocks"):
        decode_frames(clip("h264_b_frames"), "fps:24", max_bytes=1_000_000)


def test_a_later_frame_that_is_too_large():
    grown = clip("h264_raw") + Clip("libx264", "h264", width=320, height=192, num_frames=4).encode()
    assert len(decode_frames(grown, "fps:1000").frames) == 76
    with pytest.raises(TooLarge, match="320x192"):
        decode_frames(grown, "fps:1000", max_pixels=10_000)


def test_a_playlist_opens_nothing_else(tmp_path):
    (tmp_path / "other.ts").write_bytes(clip("h264_annex_b_ts"))
    path = tmp_path / "innocent.mp4"
    path.write_bytes(_PLAYLIST)
    with pytest.raises(NotAVideo):
        decode_frames(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"backend": "opencv"}, "backend='opencv' must be 'pyav' or 'decord'"),
        ({"sampling": "often"}, "'often' is not one of"),
        ({"sampling": "quick_start,start:60"}, "no frame between"),
        ({"block_frames": 0}, "block_frames=0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_value_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        iter_frame_blocks(clip("h264_b_frames"), **arguments)


def test_wrong_sources_are_value_errors():
    for source in (None, 7, ["a.mp4"]):
        with pytest.raises(ValueError, match="path, bytes or a seekable binary file object"):
            decode_frames(source)


def test_decord_failures_are_named():
    pytest.importorskip("decord")
    with pytest.raises(Unsupported, match=r"decord cannot open this av1 video .*; use backend='pyav'"):
        decode_frames(clip("av1"), backend="decord")
    with pytest.raises(Missing):
        decode_frames("nowhere.mp4", backend="decord")


def test_decord_is_optional(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    with pytest.raises(ImportError, match="backend='decord' needs the decord package"):
        decode_frames(clip("h264_b_frames"), backend="decord")
    assert len(decode_frames(clip("h264_b_frames")).frames) == 3


def test_the_set_is_closed_and_travels_between_processes():
    assert sorted(VIDEO_ERRORS) == [
        "Corrupt",
        "Forbidden",
        "Missing",
        "NotAVideo",
        "Timeout",
        "TooLarge",
        "Truncated",
        "Unsupported",
    ]
    error = Corrupt("a.mp4: two\n  lines")
    error.log_tail = "last words"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message, copy.log_tail) == (Corrupt, "a.mp4: two lines", "last words")


def test_summary_before_the_end_is_refused():
    stream = iter_frame_blocks(clip("h264_b_frames"))
    with pytest.raises(RuntimeError, match="after its last block"):
        _ = stream.summary
    assert len(list(stream)) == 1
    assert stream.summary.num_frames == CLIPS["h264_b_frames"].num_frames
