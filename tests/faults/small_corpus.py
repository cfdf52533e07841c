"""Videos for jobs that are interrupted: one long source among short ones, some damaged, all small."""

from __future__ import annotations

from pathlib import Path

from tests.pipelines.conftest import write_video


def write_corpus(folder: Path, short: int = 12, long_s: int = 40, size: tuple[int, int] = (96, 64)) -> Path:
    """``short`` videos of 3 s, one of ``long_s`` seconds that is split, one that is cut off, one that is text.

    At 4 samples per second and 16 per unit: ``short`` + ``long_s`` / 4 units, and two for the others.
    """
    for number in range(short):
        write_video(folder / f"short_{number:02d}.mp4", [3], number, size)
    write_video(folder / "long.mp4", [15] * (long_s // 15) + [long_s % 15] * (long_s % 15 > 0), 99, size)
    whole = write_video(folder / "cut.mkv", [6, 6], 98, size).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "text.mp4").write_text("this is no video")
    return folder
