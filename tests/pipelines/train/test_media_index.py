"""Where media are found: in the store by URI or content, or as files, under the given path or a known variant of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.train.config import Join
from pipelines.train.media_index import MediaIndex
from pipelines.train.samples import Kind, MediaRef, Repair, Unusable
from tests.pipelines.train.conftest import Library


def locate(
    library: Library, path: str, root: Path | None = None, join: Join = "source", kind: Kind = "video"
) -> tuple[MediaRef, Repair | None]:
    return MediaIndex(library.stored, join).locate(MediaRef(kind, path), f"file://{root or library.media}")


def test_a_stored_video_is_found_by_its_source(library: Library) -> None:
    medium, repair = locate(library, "sub/long.mp4")
    assert medium.uri == f"file://{library.media}/sub/long.mp4"
    assert library.stored.row(medium.video_id)["source"] == medium.uri
    assert repair is None


def test_the_store_is_enough(library: Library, tmp_path: Path) -> None:
    """A stored video need not be there any more."""
    kept = library.media / "short.mp4"
    moved = shutil.move(kept, tmp_path / "short.mp4")
    try:
        assert locate(library, "short.mp4")[0].video_id is not None
    finally:
        shutil.move(moved, kept)


def test_a_file_that_is_not_stored_is_decoded_online(library: Library) -> None:
    medium, repair = locate(library, "new.mp4")
    assert (medium.video_id, repair) == (None, None)
    assert MediaIndex(None).locate(MediaRef("video", "short.mp4"), f"file://{library.media}")[0].video_id is None


def test_a_moved_file_is_found_by_content_if_asked(library: Library, tmp_path: Path) -> None:
    shutil.copyfile(library.media / "short.mp4", tmp_path / "elsewhere.mp4")
    by_source, _ = locate(library, "short.mp4")
    assert locate(library, "elsewhere.mp4", tmp_path)[0].video_id is None
    assert locate(library, "elsewhere.mp4", tmp_path, "content")[0].video_id == by_source.video_id


@pytest.mark.parametrize(
    ("path", "found", "repair"),
    [
        ("prefix/short.mp4", "short.mp4", "other path"),
        ("short.mkv", "short.mp4", "other extension"),
        ("new_frames.mp4", "new_frames.npy", "other extension"),
        ("new_folder", "new_folder", None),
    ],
)
def test_known_variants_are_tried(library: Library, path: str, found: str, repair: str | None) -> None:
    medium, mended = locate(library, path)
    assert medium.uri == f"file://{library.media}/{found}"
    assert mended == repair


def test_pictures_have_variants_of_their_own(library: Library) -> None:
    medium, repair = locate(library, "new_picture.jpg", kind="image")
    assert medium.uri.endswith("/new_picture.png")
    assert repair == "other extension"


def test_gifs_lie_in_a_folder_of_their_own(library: Library, tmp_path: Path) -> None:
    (tmp_path / "gifs").mkdir()
    (tmp_path / "gifs" / "cat.gif").touch()
    assert locate(library, "cat.gif", tmp_path)[0].uri == f"file://{tmp_path}/gifs/cat.gif"


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("gone.mp4", "Missing"),
        ("broken.mp4", "NotAVideo"),
        ("/etc/passwd", "bad path"),
        ("../media/short.mp4", "bad path"),
        ("http://host/short.mp4", "bad path"),
    ],
)
def test_what_cannot_be_used_is_named(library: Library, path: str, cause: str) -> None:
    """The store says of a failed video why it failed."""
    with pytest.raises(Unusable) as caught:
        locate(library, path)
    assert caught.value.cause == cause
    assert path.rpartition("/")[2] in str(caught.value)


def test_a_prefix_of_s3_is_listed_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import storage

    root = f"{s3}/train-media"
    for name in ("a.mp4", "gifs/b.gif", "folder/1.png"):
        storage.write_bytes(f"{root}/{name}", b"bytes")
    index = MediaIndex(None)
    listings: list[str] = []
    listing = storage.listing
    monkeypatch.setattr(storage, "listing", lambda uri, **kw: listings.append(uri) or listing(uri, **kw))
    found = [index.locate(MediaRef("video", path), root)[0].uri for path in ("a.mkv", "b.gif", "folder")]
    assert found == [f"{root}/a.mp4", f"{root}/gifs/b.gif", f"{root}/folder"]
    assert listings == [root]
