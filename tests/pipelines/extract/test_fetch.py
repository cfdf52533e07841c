"""Sources on this machine: hashed once, and every trouble under its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from longvu_model.video import Corrupt, Missing, NotAVideo
from pipelines import retry, storage
from pipelines.extract.fetch import Fetcher
from pipelines.extract.plan import Member


def member(uri: str, **changes: str) -> Member:
    found = storage.stat(uri)
    return Member(uri, found.size_bytes, changes.get("version", found.version))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"bytes")
    return path


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    monkeypatch.setattr(retry, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retry, "_LONGEST_WAIT_S", 0.001)
    return Fetcher(None, attempts=3)


def test_chunks_of_one_source_are_fetched_once(fetcher: Fetcher, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        storage.write_bytes(f"{s3}/fetch/{name}.mp4", name.encode())
    opened: list[str] = []
    real = storage.open_input
    monkeypatch.setattr(storage, "open_input", lambda uri: (opened.append(uri), real(uri))[1])
    first = fetcher.fetch(member(f"{s3}/fetch/a.mp4"))
    assert fetcher.fetch(member(f"{s3}/fetch/a.mp4")) is first
    assert first.path.read_bytes() == b"a" and first.video_id == storage.sha256(storage.resolve(first.path))
    second = fetcher.fetch(member(f"{s3}/fetch/b.mp4"))
    assert not first.path.exists() and second.path.exists()
    assert [uri for uri in opened if uri.startswith("s3://")] == [f"{s3}/fetch/a.mp4", f"{s3}/fetch/b.mp4"]
    fetcher.close()
    assert not second.path.exists()


def test_a_replaced_source_is_not_mixed_in(fetcher: Fetcher, video: Path) -> None:
    with pytest.raises(Missing, match=r"video\.mp4: was replaced after this run had planned it"):
        fetcher.fetch(member(storage.resolve(video), version="mtime:1"))


def test_a_pipe_is_not_waited_for(fetcher: Fetcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(NotAVideo, match="is no regular file"):
        fetcher.fetch(member(storage.resolve(tmp_path / "pipe.mp4")))


@pytest.mark.parametrize(("failures", "expected"), [(2, None), (3, Corrupt)])
def test_a_shaky_disk(
    fetcher: Fetcher, video: Path, monkeypatch: pytest.MonkeyPatch, failures: int, expected: type[Exception] | None
) -> None:
    calls: list[str] = []
    real = storage.sha256

    def shaky(uri: str) -> str:
        calls.append(uri)
        if len(calls) <= failures:
            raise OSError(errno.EIO, "Input/output error")
        return real(uri)

    monkeypatch.setattr(storage, "sha256", shaky)
    if expected is None:
        assert fetcher.fetch(member(storage.resolve(video))).path == video
    else:
        with pytest.raises(expected, match="its disk cannot read it"):
            fetcher.fetch(member(storage.resolve(video)))
    assert len(calls) == 3


def test_storage_that_does_not_answer_is_not_the_sources_fault(
    fetcher: Fetcher, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: str) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(storage, "sha256", stale)
    with pytest.raises(OSError, match="Stale"):
        fetcher.fetch(member(storage.resolve(video)))
