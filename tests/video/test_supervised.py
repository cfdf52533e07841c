"""A child decodes: same frames, bounded time and memory, and its death is an error like any other."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from longvu_model.video import Corrupt, Missing, NotAVideo, Timeout, TooLarge, decode_frames, supervised
from longvu_model.video.supervised import close_idle_children, supervised_blocks
from tests.video.clips import Clip, clip

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _no_children_left():
    yield
    close_idle_children()


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """More frames than the pipe holds, so that the child is in the middle of the video after the first block."""
    path = tmp_path_factory.mktemp("supervised") / "long.mp4"
    path.write_bytes(Clip("libx264", width=320, height=192, num_frames=150, options={"preset": "ultrafast"}).encode())
    return path


def _pid(stream):
    return stream._child._process.pid


def test_same_as_in_process(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("h264_rotated_90"))
    expected = decode_frames(path, "fps:7")
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        stream = supervised_blocks(source, "fps:7", block_frames=4)
        assert stream.indices.tolist() == expected.indices.tolist()
        with pytest.raises(RuntimeError, match="after its last block"):
            _ = stream.summary
        blocks = list(stream)
        assert [len(block.indices) for block in blocks] == [4, 4, 4, 4, 4, 4]
        assert np.array_equal(np.concatenate([block.frames for block in blocks]), expected.frames)
        assert np.array_equal(np.concatenate([block.pts_s for block in blocks]), expected.pts_s)
        assert stream.summary == expected.summary


def test_one_child_serves_many_videos():
    stream = supervised_blocks(clip("h264_b_frames"))
    first = _pid(stream)
    list(stream)
    with pytest.raises(NotAVideo):
        supervised_blocks(b"text")
    stream = supervised_blocks(clip("vp9"))
    assert _pid(stream) == first
    list(stream)


def test_two_videos_at_once():
    one, two = supervised_blocks(clip("h264_b_frames"), block_frames=1), supervised_blocks(clip("vp9"), block_frames=1)
    assert _pid(one) != _pid(two)
    pairs = list(zip(one, two, strict=False))
    assert len(pairs) == 2
    one.close(), two.close()


def test_a_hang_ends_at_the_deadline(long_clip):
    stream = supervised_blocks(long_clip, "fps:24", deadline_s=2.0)
    blocks = iter(stream)
    next(blocks)
    pid = _pid(stream)
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(Timeout, match=r"long.mp4.*did not finish within 2 s"):
        list(blocks)
    assert time.monotonic() - start < 10
    assert not Path(f"/proc/{pid}").exists()
    assert len(list(supervised_blocks(long_clip, "fps:1"))) == 1


def test_a_slow_caller_does_not_use_up_the_deadline(long_clip, monkeypatch):
    class Clock:
        offset = 0.0

        def monotonic(self):
            return time.monotonic() + self.offset

    clock = Clock()
    monkeypatch.setattr(supervised, "time", clock)
    stream = supervised_blocks(long_clip, "fps:24", deadline_s=60.0)
    for _ in stream:
        clock.offset += 1000.0
    assert stream.summary.num_frames == 150


@pytest.mark.parametrize("kind", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_a_corrupt_video(long_clip, kind):
    stream = supervised_blocks(long_clip, "fps:24")
    blocks = iter(stream)
    next(blocks)
    os.kill(_pid(stream), kind)
    with pytest.raises(Corrupt, match=f"long.mp4.*the decoder died of {kind.name}") as caught:
        list(blocks)
    assert caught.value.out_of_memory == (kind is signal.SIGKILL)  # tried again in smaller blocks by the same decoder
    assert len(list(supervised_blocks(long_clip, "fps:1"))) == 1


def test_an_abandoned_video_frees_its_child(long_clip):
    stream = supervised_blocks(long_clip, "fps:24")
    pid = _pid(stream)
    for _ in stream:
        break
    del stream
    assert not Path(f"/proc/{pid}").exists()


def test_the_log_of_the_child_is_kept(tmp_path):
    damaged = bytearray(clip("h264_no_b_frames"))
    start = damaged.index(b"mdat") + 4
    damaged[start + 700 : start + 900] = b"\x55" * 200
    stream = supervised_blocks(bytes(damaged), "fps:24")
    child = stream._child
    list(stream)
    assert b"h264" in child.log


def test_memory_is_limited():
    huge = Clip("mjpeg", width=8192, height=4096, num_frames=1, pixel_format="yuvj420p").encode()
    with pytest.raises(TooLarge, match="needs more memory than it may have"):
        list(supervised_blocks(huge, memory_bytes=512 << 20))
    assert len(list(supervised_blocks(huge))) == 1


def test_errors_are_the_childs(tmp_path):
    with pytest.raises(Missing, match=r"nowhere.mp4.*no such file"):
        supervised_blocks(tmp_path / "nowhere.mp4")
    with pytest.raises(TooLarge, match="allowed are 100"):
        supervised_blocks(clip("vp9"), max_pixels=100)
    with pytest.raises(ValueError, match="no frame between"):
        supervised_blocks(clip("vp9"), "fps:1,start:60")
    with pytest.raises(ValueError, match="block_frames=0"):
        supervised_blocks(clip("vp9"), block_frames=0)
    with pytest.raises(ValueError, match="deadline_s=0"):
        supervised_blocks(clip("vp9"), deadline_s=0)
    with pytest.raises(ValueError, match="memory_bytes=1 must be at least"):
        supervised_blocks(clip("vp9"), memory_bytes=1)


def test_the_child_is_light():
    stream = supervised_blocks(clip("vp9"))
    loaded = Path(f"/proc/{_pid(stream)}/maps").read_text()
    list(stream)
    assert "libavcodec" in loaded
    assert "torch" not in loaded
    assert "decord" not in loaded


def test_the_child_ends_with_its_parent(long_clip):
    program = textwrap.dedent(f"""
        from longvu_model.video.supervised import supervised_blocks
        stream = supervised_blocks({str(long_clip)!r}, "fps:24")
        print(stream._child._process.pid, flush=True)
        input()
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_REPOSITORY
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < until, "the child outlived its parent"
        time.sleep(0.01)
    parent.stdin.close(), parent.stdout.close()


def _runs(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
