"""Uploads on disk: one file per content, quota, expiry, and nothing left of what was refused."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.serve.config import UploadSettings
from pipelines.serve.media import MediaRefused, Probe
from pipelines.serve.refusals import Refusal
from pipelines.serve.videos import Uploads

TYPE = "multipart/form-data; boundary=b"
PROBE = Probe("video", "h264", 96, 64, 10, 4.0, 2.5)


def body(content: bytes, filename: str = "film.mp4") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


async def pieces(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def uploads(folder: Path, **settings: object) -> Uploads:
    return Uploads(UploadSettings.model_validate(settings), folder, lambda path: PROBE)


def receive(into: Uploads, content: bytes, filename: str = "film.mp4", announced: int = 0) -> str:
    return asyncio.run(into.receive(pieces(body(content, filename)), TYPE, announced)).id


@pytest.mark.parametrize("size", [1, 2, 16, 1000])
def test_bytes_arrive_whatever_the_pieces(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) + b"\r\n--b\r" + b"--b--" + b"\r\n--"
    kept = uploads(tmp_path)
    video = asyncio.run(kept.receive(pieces(body(content), size), TYPE, 0))
    path = kept.use(video.id)
    assert path is not None and path.read_bytes() == content
    assert video.bytes == len(content)


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("film.mp4", "film.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\x.mp4", "x.mp4"),
        ("a\x07b", "ab"),
        ("", ""),
    ],
)
def test_names_are_no_paths(tmp_path: Path, filename: str, name: str) -> None:
    kept = uploads(tmp_path)
    found = kept.find(receive(kept, b"abc", filename))
    assert found is not None and found.filename == (name or "unnamed")
    assert {path.name for path in tmp_path.iterdir()} == {found.id, f"{found.id}.json"}


def test_a_refused_upload_leaves_nothing(tmp_path: Path) -> None:
    def refuse(_: Path) -> Probe:
        raise MediaRefused("no medium", "send one", 415)

    kept = Uploads(UploadSettings(max_bytes=10), tmp_path, refuse)
    with pytest.raises(MediaRefused):
        receive(kept, b"abc")
    with pytest.raises(Refusal, match="more than 10 bytes"):
        receive(kept, b"x" * 11)
    with pytest.raises(Refusal, match="more than 10 bytes"):
        receive(kept, b"", announced=1 << 40)
    assert list(tmp_path.iterdir()) == []


def test_the_quota_counts_what_is_there_and_what_comes(tmp_path: Path) -> None:
    kept = uploads(tmp_path, quota_bytes=1000)
    first = receive(kept, b"a" * 500)
    with pytest.raises(Refusal, match="uploads would take"):
        receive(kept, b"b" * 10, announced=600)
    assert kept.delete(first) and not kept.delete(first)
    assert receive(kept, b"b" * 10, announced=600)


def test_uploads_expire_unless_they_are_used(tmp_path: Path) -> None:
    kept = uploads(tmp_path, ttl_s=100)
    old, used = receive(kept, b"old"), receive(kept, b"used")
    before_s = time.time() - 90
    for video in (old, used):
        os.utime(tmp_path / f"{video}.json", (before_s, before_s))
    assert kept.use(used)
    os.utime(tmp_path / f"{old}.json", (before_s - 20, before_s - 20))
    assert kept.find(old) is None and kept.use(old) is None
    assert [video.id for video in kept.list()] == [used]
    assert kept.sweep() == 1
    assert not (tmp_path / old).exists() and (tmp_path / used).exists()


def test_an_abandoned_upload_is_swept(tmp_path: Path) -> None:
    partial = tmp_path / "partial-x"
    partial.write_bytes(b"abc")
    kept = uploads(tmp_path)
    assert kept.sweep() == 0
    os.utime(partial, (0, 0))
    assert kept.sweep() == 1


def test_ids_that_are_none_find_nothing(tmp_path: Path) -> None:
    kept = uploads(tmp_path / "uploads")
    (tmp_path / "secret").write_text("x")
    for name in ("../secret", "", "x" * 64, "0" * 63, "0" * 64 + "\n"):
        assert kept.find(name) is None and kept.use(name) is None and not kept.delete(name)


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def stopping() -> AsyncIterator[bytes]:
        yield body(b"abc")[:-20]
        raise Refusal(408, "too slow", "be quicker", "timeout")

    with pytest.raises(Refusal, match="too slow"):
        asyncio.run(uploads(tmp_path).receive(stopping(), TYPE, 0))
    assert list(tmp_path.iterdir()) == []
