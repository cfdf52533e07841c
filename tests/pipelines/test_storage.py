"""The same behaviour for a local folder and for a real S3 server."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.storage import HashingOutput, StorageError


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return storage.resolve(tmp_path)
    return f"{request.getfixturevalue('s3')}/{request.node.name.replace('[', '-').rstrip(']')}"


def names(objects: object) -> list[str]:
    return [item.uri.rpartition("/")[2] for item in objects]  # type: ignore[attr-defined]


def test_write_read_replace(root: str) -> None:
    uri = storage.join(root, "a", "b.json")
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    storage.write_bytes(uri, b"one")
    first = storage.stat(uri)
    storage.write_bytes(uri, b"two!")
    second = storage.stat(uri)
    assert storage.read_bytes(uri) == b"two!"
    assert (first.size_bytes, second.size_bytes) == (3, 4)
    assert first.version != second.version
    storage.remove(uri)
    storage.remove(uri)
    assert not storage.exists(uri)


def test_listing_and_patterns(root: str) -> None:
    for name in ("b.mp4", "a.mp4", "deep/c.mp4", "d.txt", ".hidden"):
        storage.write_bytes(storage.join(root, name), b"x")
    assert names(storage.listing(root)) == ["a.mp4", "b.mp4", "d.txt"]
    assert sorted(names(storage.listing(root, recursive=True))) == ["a.mp4", "b.mp4", "c.mp4", "d.txt"]
    assert names(storage.glob(storage.join(root, "*.mp4"))) == ["a.mp4", "b.mp4"]
    assert list(storage.listing(storage.join(root, "nowhere"))) == []
    assert names(storage.listing(root, prefix="a")) == ["a.mp4"]
    assert names(storage.listing(root, prefix=".")) == [".hidden"]
    assert all(abs(item.modified_s - time.time()) < 60 for item in storage.listing(root))
    assert storage.is_folder(root) and not storage.is_folder(storage.join(root, "a.mp4"))


def test_hashing_output(root: str) -> None:
    data = os.urandom(100_000)
    uri = storage.join(root, "folder", "big")
    with HashingOutput(uri) as output:
        output.write(data[:1000])
        output.write(memoryview(data)[1000:])
    assert storage.read_bytes(uri) == data
    assert output.sha256 == storage.sha256(uri) == hashlib.sha256(data).hexdigest()
    assert output.size_bytes == len(data)


def test_failed_output_leaves_nothing(root: str) -> None:
    uri = storage.join(root, "folder", "half")
    with pytest.raises(RuntimeError), HashingOutput(uri) as output:
        output.write(b"half")
        raise RuntimeError
    assert not storage.exists(uri)


def test_local_copy_and_ranges(root: str) -> None:
    uri = storage.join(root, "video.mp4")
    storage.write_bytes(uri, b"0123456789")
    with storage.local_copy(uri) as path:
        assert path.suffix == ".mp4"
        assert path.read_bytes() == b"0123456789"
    with storage.open_input(uri) as file:
        file.seek(7)
        assert file.read() == b"789"
    arrow = storage.arrow_input(uri)
    assert arrow.size() == 10
    assert storage.local_path(uri).exists() if storage.is_local(uri) else not path.exists()


def test_a_killed_local_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.resolve(tmp_path / "commit.json")
    storage.write_bytes(uri, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", killed)
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert names(storage.listing(storage.resolve(tmp_path))) == ["commit.json"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uri = storage.resolve(tmp_path / "file" / "below")
    for write in (lambda: storage.write_bytes(uri, b"x"), lambda: HashingOutput(uri)):
        with pytest.raises(StorageError, match=r"file/below: cannot be written \((Not a directory|File exists)\)"):
            write()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.resolve(tmp_path / "big")
    with pytest.raises(StorageError, match=r"/big: cannot be written \(No space left on device\)"):  # noqa: SIM117
        with HashingOutput(uri) as output:
            full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - the output closes it
            monkeypatch.setattr(output, "_file", full)
            output.write(b"x")
    assert full.closed and not storage.exists(uri)


def test_links(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.mp4").write_bytes(b"x")
    (tmp_path / "folder" / "loop").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = list(storage.listing(storage.resolve(tmp_path), recursive=True))
    assert [(item.uri.rpartition("/")[2], item.version == storage.MISSING) for item in found] == [
        ("a.mp4", False),
        ("gone.mp4", True),
    ]


def test_uris() -> None:
    assert storage.resolve("s3://bucket/a/") == "s3://bucket/a"
    assert storage.resolve("/a/../b") == "file:///b"
    assert storage.shown("file:///b c") == "/b c"
    with pytest.raises(StorageError, match="scheme 'gs'"):
        storage.resolve("gs://bucket")
    with pytest.raises(StorageError, match="no bucket"):
        storage.resolve("s3://")


def test_service_errors_name_the_uri(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    storage._s3.cache_clear()
    try:
        with pytest.raises(StorageError, match=r"s3://bucket/x: .*check AWS_ENDPOINT_URL"):
            storage.read_bytes("s3://bucket/x")
    finally:
        storage._s3.cache_clear()
