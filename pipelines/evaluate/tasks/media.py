"""What a row shows: part of a file, or of a folder of frames that is made a file first.

Frames of a folder go losslessly into a Matroska file (FFV1, RGB), so that every reader of videos reads them too and
sees the very pixels. Which frames those are follows the published rule for folders.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from longvu_model.video.container import MAX_PIXELS
from longvu_model.video.errors import Corrupt, Missing, Truncated
from longvu_model.video.frames import Rgb
from longvu_model.video.sampling import FrameSampling, Indices
from longvu_model.video.sparse import SparseFrames
from longvu_model.video.supervised import supervised_blocks

EVERY_FRAME = FrameSampling(fps=1e6)
"""Above twice a video's rate every frame is taken."""


@dataclass(frozen=True)
class Clip:
    """Part of a video file, or of a folder of numbered pictures."""

    path: str
    """Absolute path: the file that is there, or the published name where none is."""
    start_s: float | None = None
    end_s: float | None = None
    frames_dir: bool = False
    """Whether ``path`` is a folder of pictures."""
    frame_rate: float | None = None
    """Pictures per second of a folder."""
    frame_name: str = "{:05d}.jpg"
    """File names in a folder, by number."""
    frame_numbers: tuple[int, ...] | None = None
    """Exactly these frames, file numbers in a folder, counted from 0 in a video; no sampling."""


@dataclass(frozen=True)
class Shown:
    """Files ready to be watched."""

    video: Path | None
    sampling: FrameSampling
    """The frame policy with the clip's bounds."""
    still: Path | None = None
    """A picture shown after the video."""

    def times_s(self) -> list[float]:
        """Times of the sampled frames as published for subtitles: frame number over the rate in whole numbers.

        Raises:
            VideoError: the video cannot be opened.
            ValueError: there is none, or it does not state its rate.
        """
        frames = _frames(str(self.video), self.sampling)
        return [float(index / max(1, round(frames.fps))) for index in frames.indices]


def show(
    clip: Clip | None, still: Clip | None, sampling: FrameSampling, made: Path, segments: int | None = None
) -> Shown:
    """Resolve a row's media.

    Args:
        clip: the video; with ``frames_dir`` or ``frame_numbers`` it is made a file in ``made`` first.
        still: a clip of one frame.
        sampling: frame policy.
        made: folder for files made here; they are named by their content's origin and kept.
        segments: instead of ``sampling``, the middle frame of each of so many equal parts.

    Raises:
        VideoError: a file is missing or cannot be read.
        ValueError: no frame lies between the bounds.
    """
    picture = _made_picture(still, made) if still is not None else None
    if clip is None:
        return Shown(None, sampling, picture)
    if not Path(clip.path).exists():
        raise Missing(f"{clip.path}: no such {'folder' if clip.frames_dir else 'file'}")
    numbers = _numbers(clip, sampling, segments)
    if numbers is None:
        bounded = dataclasses.replace(sampling, start_s=clip.start_s, end_s=clip.end_s)
        return Shown(Path(clip.path), bounded, picture)
    rate = _rate(clip, numbers)
    return Shown(_made(clip, numbers, rate, made), FrameSampling(fps=rate), picture)


def _numbers(clip: Clip, sampling: FrameSampling, segments: int | None) -> Indices | None:
    """File numbers or frame numbers to put into a file of their own; None where the video is watched as it is."""
    if clip.frame_numbers is not None:
        return np.asarray(clip.frame_numbers)
    if not clip.frames_dir:
        if segments is None:
            return None
        frames = _frames(clip.path, EVERY_FRAME)
        return segment_frames(segments, 0, frames.num_frames - 1, frames.fps, clip.start_s, clip.end_s)
    assert clip.frame_rate is not None, "a folder of frames has a rate"
    last = sum(1 for file in os.scandir(clip.path) if file.is_file())
    if segments is not None:
        return segment_frames(segments, 1, last, clip.frame_rate, clip.start_s, clip.end_s)
    return folder_frames(last, clip.frame_rate, sampling, clip.start_s, clip.end_s, clip.path)


def folder_frames(
    num_files: int, rate: float, sampling: FrameSampling, start_s: float | None, end_s: float | None, name: str
) -> Indices:
    """1-based file numbers (T,) to read from a folder of ``num_files`` pictures at ``rate`` per second.

    As published for MVBench: from ``max(1, round(rate * start_s))`` up to, without, ``min(round(rate * end_s),
    num_files)``, in steps of ``round(rate / fps)``; or so many evenly between the two.

    Raises:
        ValueError: no file lies between the bounds.
    """
    start = 1 if start_s is None else max(1, round(rate * start_s))
    stop = num_files if end_s is None else min(round(rate * end_s), num_files)
    if start >= stop:
        raise ValueError(f"{name}: no frame between {start_s} s and {end_s} s among {num_files} at {rate:g} per second")
    if sampling.num_frames is not None:
        return np.linspace(start, stop - 1, min(sampling.num_frames, stop - start)).astype(np.int64)
    assert sampling.fps is not None
    return np.arange(start, stop, max(1, round(rate / sampling.fps)))


def segment_frames(
    segments: int, first: int, last: int, rate: float, start_s: float | None, end_s: float | None
) -> Indices:
    """Frame numbers (segments,) as the makers of MVBench take them: the middle of each of so many equal parts.

    Args:
        first, last: the first and the last frame number that there are.

    Raises:
        ValueError: no frame lies between the bounds.
    """
    start = first if start_s is None else max(first, round(start_s * rate))
    stop = last if end_s is None else min(round(end_s * rate), last)
    if start > stop:
        raise ValueError(
            f"no frame between {start_s} s and {end_s} s: the last is number {last} at {rate:g} per second"
        )
    length = (stop - start) / segments
    return np.asarray([min(last, int(start + length / 2 + round(length * i))) for i in range(segments)])


def _rate(clip: Clip, numbers: Indices) -> float:
    """Pictures per second at which ``numbers`` follow each other."""
    rate = clip.frame_rate or _frames(clip.path, EVERY_FRAME).fps
    span = int(numbers[-1] - numbers[0])
    return rate * (len(numbers) - 1) / span if span > 0 else rate


def _made(clip: Clip, numbers: Indices, rate: float, made: Path) -> Path:
    """The frames ``numbers`` of a clip as a video, written unless it is there."""
    path = made / f"frames-{_origin(clip, numbers, rate)}.mkv"
    if not path.exists():
        write_lossless(path, _pictures(clip, numbers), rate)
    return path


def _made_picture(still: Clip, made: Path) -> Path:
    """The one frame of ``still`` as a picture, written unless it is there."""
    if not Path(still.path).exists():
        raise Missing(f"{still.path}: no such {'folder' if still.frames_dir else 'file'}")
    number = np.asarray(still.frame_numbers)
    path = made / f"still-{_origin(still, number, 1.0)}.png"
    if not path.exists():
        (picture,) = _pictures(still, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            Image.fromarray(picture).save(partial)
    return path


def _origin(clip: Clip, numbers: Indices, rate: float) -> str:
    """A digest of what a made file is made of."""
    state = os.stat(clip.path)
    origin = (clip.path, state.st_mtime_ns, state.st_size, clip.frame_name, numbers.tolist(), rate)
    return hashlib.blake2b(repr(origin).encode(), digest_size=12).hexdigest()


def _pictures(clip: Clip, numbers: Indices) -> Iterator[Rgb]:
    return _files(clip, numbers) if clip.frames_dir else _decoded(clip.path, numbers)


def _files(clip: Clip, numbers: Indices) -> Iterator[Rgb]:
    for number in numbers.tolist():
        file = Path(clip.path) / clip.frame_name.format(number)
        try:
            with Image.open(file) as picture:
                yield np.asarray(picture.convert("RGB"))
        except FileNotFoundError:
            raise Missing(f"{file}: no such file") from None
        except (UnidentifiedImageError, OSError) as error:
            raise Corrupt(f"{file}: cannot be read as a picture ({error})") from None


def _decoded(path: str, numbers: Indices) -> Iterator[Rgb]:
    """The frames ``numbers`` of a video, which may repeat but not go back; decoded in a supervised child."""
    first, last, video = int(numbers[0]), int(numbers[-1]), _frames(path, EVERY_FRAME)
    if last >= video.num_frames:
        raise Truncated(f"{path}: has {video.num_frames} frames, frame {last} is asked for (the first is 0)")
    # A bound at the end would leave out the last frame of all.
    end_s = (last + 1) / video.fps if last + 1 < video.num_frames else None
    rule = dataclasses.replace(EVERY_FRAME, start_s=first / video.fps, end_s=end_s)
    wanted = numbers.tolist()
    for block in supervised_blocks(path, rule):
        for number, picture in zip(block.indices.tolist(), block.frames, strict=True):
            while wanted and number == wanted[0]:
                wanted.pop(0)
                yield picture
    if wanted:
        raise Truncated(f"{path}: its frame {wanted[0]} cannot be decoded")


def _frames(path: str, sampling: FrameSampling) -> SparseFrames:
    return SparseFrames(path, sampling, threads=1, max_pixels=MAX_PIXELS)


def write_lossless(path: Path, pictures: Iterable[Rgb], rate: float) -> None:
    """Write pictures (H, W, 3) as FFV1 in Matroska; they are read back bit for bit. Pictures of another size than the
    first are resized to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, av.open(str(partial), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate).limit_denominator(1001))
        stream.pix_fmt = "bgr0"
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(stream.width, stream.height, "bgr0")))
        container.mux(stream.encode(None))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to that becomes ``path`` once everything is written."""
    partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
