"""Still pictures (JPEG, PNG, WebP, BMP, TIFF) and short animations (PNG, WebP) as videos of one or a few frames.

They are read with Pillow, as the published code reads images; animated GIFs go through FFmpeg as any video does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from longvu_model.video.container import Source, binary_file, check_size, source_name
from longvu_model.video.errors import Corrupt, TooLarge, Truncated
from longvu_model.video.frames import DecodeSummary, Rgb
from longvu_model.video.sampling import FrameSampling, sample_indices

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_ANIMATED = frozenset(("PNG", "WEBP"))
_QUARTER_TURNS = {3: 180, 4: 180, 5: -90, 6: -90, 7: 90, 8: 90}
"""Counterclockwise degrees by EXIF orientation; 2, 4, 5 and 7 are mirrored as well."""


def is_picture(source: Source) -> bool:
    """Whether the first bytes of ``source`` are those of a picture that this file reads.

    Raises:
        Missing, Forbidden, NotAVideo: as ``binary_file``.
    """
    with binary_file(source) as file:
        head = file.read(16)
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")) or (
        head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    )


class PictureFrames:
    """The sampled frames of a picture; iterate once. A still picture is one frame at time 0, at 1 frame per second.

    Raises:
        VideoError: the picture is damaged or too large.
        ValueError: the sampling rule does not fit the animation.
    """

    def __init__(self, source: Source, sampling: FrameSampling, *, max_pixels: int) -> None:
        self._source, self._name = source, source_name(source)
        with _picture(source) as picture:
            check_size(self._name, picture.width, picture.height, max_pixels)
            self.num_frames = getattr(picture, "n_frames", 1) if picture.format in _ANIMATED else 1
            self._codec = str(picture.format).lower().replace("mpo", "jpeg")
            self._rotation = _QUARTER_TURNS.get(picture.getexif().get(0x0112, 1), 0)
            starts_ms = [0]
            for number in range(self.num_frames):
                picture.seek(number)
                picture.load()  # WebP tells a frame's duration only then
                starts_ms.append(starts_ms[-1] + round(picture.info.get("duration", 0)))
        duration_ms = starts_ms.pop()
        self._times_s = [start_ms / 1000 for start_ms in starts_ms]
        self._duration_s = duration_ms / 1000
        self.fps = self.num_frames * 1000 / duration_ms if duration_ms else 1.0
        self.indices = sample_indices(self.num_frames, self.fps, sampling)
        self._size = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, float, Rgb]]:
        """(frame number, presentation time in seconds, RGB (H, W, 3))."""
        with _picture(self._source) as picture:
            for number in self.indices.tolist():
                picture.seek(number)
                upright = ImageOps.exif_transpose(picture)
                self._size = upright.size
                yield number, self._times_s[number], np.asarray(upright.convert("RGB"))

    def summary(self) -> DecodeSummary:
        """Facts about the picture; its size is known after iteration."""
        return DecodeSummary(
            codec=self._codec,
            fps=self.fps,
            duration_s=self._duration_s,
            num_frames=self.num_frames,
            width=self._size[0],
            height=self._size[1],
            rotation_applied=self._rotation,
            truncated=False,
            damage=None,
            method="picture",
            packets_sent=len(self.indices),
        )


@contextmanager
def _picture(source: Source) -> Iterator[Image.Image]:
    """The opened picture; Pillow's complaints about it become ours."""
    name = source_name(source)
    with binary_file(source) as file:
        try:
            with Image.open(file, formats=_FORMATS) as picture:
                yield picture
        except Image.DecompressionBombError as error:
            raise TooLarge(f"{name}: {error}") from error
        except UnidentifiedImageError as error:
            raise Corrupt(f"{name}: begins as a picture, but its header is damaged") from error
        except (OSError, SyntaxError, EOFError, ValueError) as error:
            if "too large" in str(error):  # text and profiles that inflate beyond Pillow's limits
                raise TooLarge(f"{name}: {error}") from error
            if "truncated" in str(error):
                raise Truncated(f"{name}: this picture was cut short ({error})") from error
            raise Corrupt(f"{name}: this picture is damaged ({error})") from error
