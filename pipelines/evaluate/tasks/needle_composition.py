"""Composing one video of the haystack: footage up to a length, a needle laid over one second of it.

Nothing is shifted or removed. At a depth of 100 % the needle starts when the footage ends, so the video grows by the
needle and shows it on black. Videos are 5 frames per second, H.264, as published.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from longvu_model.video.container import MAX_PIXELS
from longvu_model.video.errors import Missing
from longvu_model.video.frames import Rgb
from longvu_model.video.sparse import SparseFrames
from pipelines.evaluate.tasks.media import EVERY_FRAME, whole_file
from pipelines.evaluate.tasks.needle_grid import Cell

Modality = Literal["video", "image", "text"]
Position = Literal["center", "bottom"]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FPS = 5
NEEDLE_S = 1
_LARGEST_FONT, _SMALLEST_FONT = 70, 10
_WIDEST_TEXT = 0.9
# The footage is encoded twice; the first time so well that only the second counts.
_FOOTAGE_CRF, _CELL_CRF = 12, 23


@dataclass(frozen=True)
class Needle:
    """What is hidden: ``source`` is the file of a video or a picture, or the text itself."""

    modality: Modality
    source: str
    font: str = ""
    """File of a text's font; empty: Pillow's own."""

    def identity(self) -> str:
        return self.source if self.modality == "text" else _identity(Path(self.source))


@dataclass(frozen=True)
class Composition:
    """What is done for one cell."""

    length_s: int
    """Seconds of footage, from its start."""
    start_s: int
    """The needle's first second."""
    position: Position
    """Where it lies, in its own size."""


def composition(cell: Cell, modality: Modality) -> Composition:
    """The published rules for a cell."""
    return Composition(cell.length_s, cell.insertion_s, "bottom" if modality == "text" else "center")


def font_size(frame_width: int, width_at_largest: float) -> int:
    """Size of a text that would be ``width_at_largest`` pixels wide at size 70: nine tenths of the frame, 10 to 70."""
    size = int(_LARGEST_FONT * _WIDEST_TEXT * frame_width / width_at_largest)
    return min(max(size, _SMALLEST_FONT), _LARGEST_FONT)


def cell_file_name(cell: Cell, modality: Modality, longest_s: int) -> str:
    """Name of a composed video, as published: by the second, so that several depths of a short video share one."""
    return f"{longest_s}_{modality}_{cell.length_s}_{cell.insertion_s}.mp4"


def compose(cell: Cell, needle: Needle, haystack: Path, longest_s: int, made: Path) -> Path:
    """The video of a cell, written unless it is there.

    Args:
        haystack: a video, or a folder of ``.mp4`` files: joined in the order of their names and repeated.
        longest_s: the longest length of the grid; the footage is made that long once.
        made: folder for what is made here. Names carry a digest of footage and needle, so another needle is another
            file.

    Raises:
        VideoError: footage or needle is missing or cannot be decoded.
    """
    clips = haystack_clips(haystack)
    if needle.modality != "text" and not Path(needle.source).is_file():
        raise Missing(f"needle {needle.source}: no such file")
    origin = repr(([_identity(clip) for clip in clips], needle.modality, needle.identity(), needle.font))
    digest = hashlib.blake2b(origin.encode(), digest_size=6).hexdigest()
    path = made / f"niavh-{digest}" / cell_file_name(cell, needle.modality, longest_s)
    if not path.exists():
        footage = _footage(clips, longest_s, made)
        write_h264(path, _composed(footage, composition(cell, needle.modality), needle), crf=_CELL_CRF)
    return path


def haystack_clips(haystack: Path) -> list[Path]:
    """The footage of a haystack. Raises Missing: there is none."""
    clips = [haystack] if haystack.is_file() else sorted(haystack.glob("*.mp4"))
    if not clips:
        raise Missing(f"haystack {haystack}: neither a video nor a folder with .mp4 files")
    return clips


def overlay(canvas: Image.Image, picture: Image.Image, position: str) -> Image.Image:
    """``picture`` (with alpha) laid over ``canvas`` in its own size: centred, or at the bottom."""
    x = (canvas.width - picture.width) // 2
    y = canvas.height - picture.height if position == "bottom" else (canvas.height - picture.height) // 2
    whole = Image.new("RGBA", canvas.size)
    whole.paste(picture, (x, y))
    return Image.alpha_composite(canvas.convert("RGBA"), whole).convert("RGB")


def needle_pictures(needle: Needle, canvas_width: int) -> list[Image.Image]:
    """The needle frame by frame, RGBA: a video's at 5 per second, a picture or a text for one second."""
    if needle.modality == "video":
        return [Image.fromarray(picture).convert("RGBA") for picture in _at_rate(Path(needle.source))]
    if needle.modality == "image":
        with Image.open(needle.source) as picture:
            return [picture.convert("RGBA")] * (NEEDLE_S * FPS)
    return [text_picture(needle.source, canvas_width, needle.font)] * (NEEDLE_S * FPS)


def text_picture(text: str, frame_width: int, font_file: str = "") -> Image.Image:
    """White text on nothing, RGBA, as large as :func:`font_size` says."""

    def font(size: int) -> Font:
        return ImageFont.truetype(font_file, size) if font_file else ImageFont.load_default(size)

    def box(size: int) -> tuple[float, float, float, float]:
        drawing = ImageDraw.Draw(Image.new("L", (1, 1)))
        return drawing.multiline_textbbox((0, 0), text, font(size), align="center")

    size = font_size(frame_width, max(1.0, box(_LARGEST_FONT)[2]))
    _, _, right, _ = box(size)
    height = round(1.2 * size * (text.count("\n") + 1))
    picture = Image.new("RGBA", (max(1, round(right)), max(1, height)))
    drawing = ImageDraw.Draw(picture)
    drawing.multiline_text((0, 0), text, "white", font(size), spacing=round(0.2 * size), align="center")
    return picture


def _composed(footage: Path, plan: Composition, needle: Needle) -> Iterator[Image.Image]:
    frames = _every_frame(footage)
    first = next(frames)
    pictures = needle_pictures(needle, first.shape[1])
    start, length = plan.start_s * FPS, plan.length_s * FPS
    black = itertools.repeat(np.zeros_like(first))
    seen = itertools.chain(itertools.islice(itertools.chain([first], frames), length), black)
    for number, frame in enumerate(itertools.islice(seen, max(length, start + len(pictures)))):
        picture = Image.fromarray(frame)
        if start <= number < start + len(pictures):
            picture = overlay(picture, pictures[number - start], plan.position)
        yield picture


def _footage(clips: Sequence[Path], longest_s: int, made: Path) -> Path:
    """The clips one after the other, again and again, ``longest_s`` seconds long, at 5 frames per second."""
    origin = repr(([_identity(clip) for clip in clips], longest_s))
    path = made / f"haystack-{hashlib.blake2b(origin.encode(), digest_size=6).hexdigest()}.mp4"
    if not path.exists():
        frames = (frame for clip in itertools.cycle(clips) for frame in _at_rate(clip))
        write_h264(path, _alike(itertools.islice(frames, longest_s * FPS)), crf=_FOOTAGE_CRF)
    return path


def _alike(frames: Iterable[Rgb]) -> Iterator[Image.Image]:
    """Pictures of the first one's size."""
    size: tuple[int, int] | None = None
    for frame in frames:
        picture = Image.fromarray(frame)
        size = size or picture.size
        yield picture if picture.size == size else picture.resize(size)


def _at_rate(path: Path) -> Iterator[Rgb]:
    """The frames of a video that are seen at 0, 0.2, 0.4 ... seconds, at its average rate."""
    frames = SparseFrames(str(path), EVERY_FRAME, threads=1, max_pixels=MAX_PIXELS)
    wanted = 0
    for number, _, picture in frames:
        while int(wanted * frames.fps / FPS) == number:
            yield picture.copy()
            wanted += 1


def _every_frame(path: Path) -> Iterator[Rgb]:
    for _, _, picture in SparseFrames(str(path), EVERY_FRAME, threads=1, max_pixels=MAX_PIXELS):
        yield picture.copy()


def write_h264(path: Path, pictures: Iterable[Image.Image], *, crf: int, rate: int = FPS) -> None:
    """Write pictures as H.264, 4:2:0, in MP4; an odd last row or column is cut off. The same pictures give the same
    bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One thread and no macroblock trees: otherwise x264's bytes depend on the machine and the moment.
    options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
    with whole_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.width, stream.height = picture.width // 2 * 2, picture.height // 2 * 2
            even = np.ascontiguousarray(np.asarray(picture)[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))


def _identity(path: Path) -> str:
    state = path.stat()
    return f"{path.absolute()}:{state.st_size}:{state.st_mtime_ns}"
