"""Media that are not in the feature store: measured when the manifest is made, decoded and encoded when needed.

A medium is a picture, a video file, a folder of pictures in the order of the numbers in their names, or a ``.npy``
array of frames. Folders and arrays are taken as sampled already; they have no times, so no part can be cut out of them.

Shapes: F frames of a window.
"""

from __future__ import annotations

import contextlib
import dataclasses
import posixpath
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longvu_model.frame_selection import WINDOW_FRAMES
from longvu_model.media import load_image
from longvu_model.video import FrameSampling, NotAVideo, VideoError, iter_frame_blocks, probe, sample_indices
from longvu_model.video.supervised import supervised_blocks
from longvu_model.watching import windows
from pipelines import storage
from pipelines.train.families.base import Watchers
from pipelines.train.samples import MediaRef, Unusable

_ORIENTATION = 0x0112  # EXIF: 5 to 8 are turned by a quarter
_FIRST_QUARTER_TURN = 5


@dataclass(frozen=True)
class Measure:
    """Frames that a medium gives, as far as its container tells without decoding, and (height, width) in pixels."""

    num_frames: int
    size: tuple[int, int]


def measure(medium: MediaRef, sampling: FrameSampling) -> Measure:
    """How large a medium is.

    Raises:
        Unusable: it cannot be opened, or no part can be cut out of it.
    """
    with _as_unusable(medium):
        if medium.kind == "image":
            return Measure(1, _picture_size(medium.uri))
        rule = _clipped(medium, sampling)
        if storage.is_folder(medium.uri):
            names = _pictures(medium.uri)
            return Measure(len(names), _picture_size(names[0]))
        with storage.local_copy(medium.uri) as path:
            if path.suffix == ".npy":
                frames, height, width, _ = _array(path).shape
                return Measure(frames, (height, width))
            info = probe(path)
            if info.num_frames is None or info.avg_fps is None:
                return Measure(len(iter_frame_blocks(path, rule).indices), (info.height, info.width))
            return Measure(len(sample_indices(info.num_frames, info.avg_fps, rule)), (info.height, info.width))


class OnlineEncoder:
    """Decodes media and shows them to the towers, one medium at a time.

    Args:
        watchers: of the model's family, with towers that are neither sharded nor trained.
        sampling: which frames of a video file to take; the store's rule, if a store is used beside this.
        deadline_s: seconds that decoding one file may take.
    """

    def __init__(self, watchers: Watchers, sampling: FrameSampling, deadline_s: float = 600.0) -> None:
        self._watchers, self._sampling, self._deadline_s = watchers, sampling, deadline_s
        self._turn = threading.Lock()

    def encode(self, medium: MediaRef, num_text: int, num_media: int = 1) -> Any:
        """What the family keeps of a medium.

        Args:
            num_text: text tokens beside it.
            num_media: media of its sample.

        Raises:
            Unusable: the medium cannot be read.
        """
        watcher = self._watchers(medium, num_text, num_media)
        with _as_unusable(medium):
            for window in self._windows(medium):
                with self._turn:
                    watcher.add(window)
            with self._turn:
                return watcher.finish()

    def _windows(self, medium: MediaRef) -> Iterator[np.ndarray]:
        if medium.kind == "image":
            yield np.asarray(load_image(storage.read_bytes(medium.uri)))[None]
            return
        rule = _clipped(medium, self._sampling)
        if storage.is_folder(medium.uri):
            pictures = (np.asarray(load_image(storage.read_bytes(name)))[None] for name in _pictures(medium.uri))
            yield from windows(pictures)
            return
        with storage.local_copy(medium.uri) as path:
            if path.suffix == ".npy":
                yield from windows([_array(path)])
                return
            stream = supervised_blocks(path, rule, deadline_s=self._deadline_s, block_frames=WINDOW_FRAMES)
            yield from windows(block.frames for block in stream)


@contextlib.contextmanager
def _as_unusable(medium: MediaRef) -> Iterator[None]:
    """What is wrong with a medium as the sample's failure; a storage service that does not answer is not."""
    name = storage.shown(medium.uri)
    try:
        yield
    except (Unusable, storage.StorageError):
        raise
    except VideoError as error:
        raise Unusable(error.code, error.message) from error
    except FileNotFoundError:
        raise Unusable("Missing", f"{name}: no such file") from None
    except PermissionError:
        raise Unusable("Forbidden", f"{name}: not allowed to read it") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise Unusable(NotAVideo.code if medium.kind == "video" else "NotAPicture", f"{name}: {error}") from error


def _clipped(medium: MediaRef, sampling: FrameSampling) -> FrameSampling:
    if medium.start_s is None:
        return sampling
    if storage.is_folder(medium.uri) or posixpath.splitext(medium.uri)[1] == ".npy":
        raise Unusable("bad clip", f"{storage.shown(medium.uri)}: has no times, so start and end cannot be found")
    return dataclasses.replace(sampling, start_s=medium.start_s, end_s=medium.end_s)


def _picture_size(uri: str) -> tuple[int, int]:
    """(height, width) as shown, from the header alone."""
    with storage.open_input(uri) as file, Image.open(file) as picture:
        turned = picture.getexif().get(_ORIENTATION, 1) >= _FIRST_QUARTER_TURN
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _pictures(folder: str) -> list[str]:
    """Files of a folder, by the last number in their names."""

    def place(uri: str) -> tuple[int, str]:
        numbers = re.findall(r"\d+", posixpath.basename(uri))
        return int(numbers[-1]) if numbers else -1, uri

    names = sorted((item.uri for item in storage.listing(folder)), key=place)
    if not names:
        raise NotAVideo(f"{storage.shown(folder)}: a folder without pictures")
    return names


def _array(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(f"holds {array.dtype} {array.shape}; frames are uint8 (frames, height, width, 3)")
    return array
