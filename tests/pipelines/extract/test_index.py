"""What counts as a source, locally and on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import storage
from pipelines.errors import UserError
from pipelines.extract.index import index_sources


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    base = str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('s3')}/index/{request.node.name}"
    base = base.replace("[", "-").replace("]", "")
    for name in ("b.mp4", "a.MKV", "notes.txt", "still.JPG", "deep/er/c.webm", "deep/.hidden.mp4"):
        storage.write_bytes(storage.join(storage.resolve(base), name), b"x")
    storage.write_bytes(
        storage.join(storage.resolve(base), "list.txt"), b"# chosen\nb.mp4\n\n deep/er/c.webm \ngone.mp4\nb.mp4\n"
    )
    return storage.resolve(base)


def names(source: str | list[str], root: str) -> list[str]:
    return [item.uri.removeprefix(root + "/") for item in index_sources(source)]


def test_folder_pattern_list_and_file(root: str) -> None:
    assert names(root, root) == ["a.MKV", "b.mp4", "deep/er/c.webm", "still.JPG"]
    assert [item.kind for item in index_sources(root)] == ["video", "video", "video", "image"]
    assert names(root + "/*.mp4", root) == ["b.mp4"]
    assert names(root + "/**/*.webm", root) == ["deep/er/c.webm"]
    assert names(root + "/b.mp4", root) == ["b.mp4"]
    assert names([root + "/b.mp4", root], root) == ["a.MKV", "b.mp4", "deep/er/c.webm", "still.JPG"]


def test_a_list_keeps_what_is_missing(root: str) -> None:
    found = index_sources(root + "/list.txt")
    assert [item.uri.removeprefix(root + "/") for item in found] == ["b.mp4", "deep/er/c.webm", "gone.mp4"]
    assert [item.version == storage.MISSING for item in found] == [False, False, True]
    assert index_sources(root + "/lis*.txt") == found


def test_folders_are_listed_where_a_list_names_many_of_their_files(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = index_sources(root + "/list.txt")
    monkeypatch.setattr("pipelines.extract.index._LISTED_FROM", 2)
    listed: list[str] = []
    listing = storage.listing
    monkeypatch.setattr(storage, "listing", lambda uri: listed.append(uri) or listing(uri))
    assert index_sources(root + "/list.txt") == one_by_one
    assert listed == ([] if storage.is_local(root) else [root])


def test_what_may_not_be_looked_at_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "list.txt").write_text("a.mp4\nsecret/b.mp4\n")
    stat = storage.stat

    def refuse(uri: str) -> storage.StoredObject:
        if "secret" in uri:
            raise PermissionError(uri)
        return stat(uri)

    monkeypatch.setattr(storage, "stat", refuse)
    versions = [item.version for item in index_sources(str(tmp_path / "list.txt"))]
    assert versions[0].startswith("mtime:") and versions[1] == storage.MISSING


def test_nothing_there(root: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        index_sources(root + "/nowhere")
    with pytest.raises(UserError, match=r"no videos or images there; a folder is searched for .*\.mp4"):
        index_sources(root + "/*.mov")


def test_a_new_version_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    first = index_sources(str(tmp_path))
    assert index_sources(str(tmp_path)) == first
    (tmp_path / "a.mp4").write_bytes(b"22")
    assert index_sources(str(tmp_path))[0].version != first[0].version


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        index_sources(str(tmp_path / "list.txt"))
