"""Samples of the needle tests: footage, needles and a written corpus."""

from __future__ import annotations

from pathlib import Path

from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.corpus.needle import needle_sprite
from pipelines.evaluate.tasks.samples.clips import write_clip

_HAYSTACK = (128, 96)
_NEEDLE = (64, 64)


def write_haystack(folder: Path) -> tuple[str, ...]:
    """Two seconds of footage, repeated as often as needed, and a star as needle: five depths in six seconds."""
    write_clip(folder / "haystack/ego/room.mp4", "blue", "square", seconds=2, rate=10, size=_HAYSTACK)
    write_clip(folder / "haystack/readingsky.mp4", "yellow", "star", seconds=1, rate=30, size=_NEEDLE)
    needle_sprite("yellow", "star", 40 * 40).save(folder / "haystack/readingsky.png")
    return (
        "lengths_s=[6]",
        "depths_percent=[0, 25, 50, 75, 100]",
        "question=Which shape is yellow?",
        "description=the yellow shape is a star",
        "scoring=keywords",
        "keywords=[star]",
    )


def write_synthetic(folder: Path) -> tuple[str, ...]:
    """Five videos with a question each."""
    config = CorpusConfig(
        num_videos=5, seconds=28, fps=4, width=128, height=72, scenes=(2, 3), needle_seconds=(1.5, 2), kinds=("colour",)
    )
    write_corpus(folder, config)
    return ()


def write_grid(folder: Path) -> tuple[str, ...]:
    """Nothing to write: five depths of half a minute."""
    return ("lengths_s=[30]", "num_depths=5", "repeats=1", "fps=4")
