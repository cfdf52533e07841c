"""Do untrained towers tell scenes apart? Cosine similarity of DINOv2 features within and between scenes.

    python -m tests.benchmarks.similarity                       # a generated corpus
    python -m tests.benchmarks.similarity a.mp4 b.mp4@3.5,10.3  # and files; after @ the cuts in seconds

Each file is decoded at --fps, and its frames compared with all others. Frames within --margin seconds of a cut (fades)
and, in the corpus, those that show the needle belong to no scene. Columns:

    within  lowest    of all frames, the mean similarity to the frames of its own scene: the number that frame
                      selection would see in a window inside the scene
            mean      of all pairs of frames of one scene
    between mean      of all pairs of frames of different scenes
            highest   of all pairs of scenes, the mean similarity of their frames
    kept              sampled frames below the threshold of 0.83 by window similarity
    needle            videos of which a kept frame shows the needle

The baseline, in the same run, is the same architecture with the usual random weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from longvu_model.frame_selection import keep_frames, window_similarity
from longvu_model.image_processing import preprocess_frames
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.presets import random_model, tiny
from longvu_model.towers import DinoTower
from longvu_model.video import FrameSampling, decode_frames
from pipelines.corpus import CorpusConfig, CorpusManifest, write_corpus

THRESHOLD = 0.83
NO_SCENE = -1


@dataclass(frozen=True)
class Clip:
    """Frames of a video and the scene that each belongs to: uint8 (T, H, W, 3), int (T,), bool (T,)."""

    name: str
    frames: NDArray[np.uint8]
    scene: NDArray[np.int64]
    needle: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Scores:
    """The columns of the table; None where there is no pair of frames, or one scene only."""

    within_lowest: float
    within_mean: float | None
    between_mean: float | None
    between_highest: float | None
    kept: int
    needle_kept: bool | None


def structured_tower(seed: int = 0) -> DinoTower:
    return random_model(tiny(), seed).model.towers.dino


def unstructured_tower(seed: int = 0) -> DinoTower:
    """The baseline: the same tower as the library leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LongVUForConditionalGeneration(tiny()).eval().model.towers.dino


def read_clip(
    path: Path, cuts_s: Iterable[float], fps: float, margin_s: float, needle_s: tuple[float, float] | None = None
) -> Clip:
    """Decode a file and label its frames."""
    video = decode_frames(path, FrameSampling(fps=fps))
    times_s, cuts = video.pts_s - video.pts_s[0], np.array(sorted(cuts_s))
    scene = np.searchsorted(cuts, times_s, side="right")
    scene[(np.abs(times_s[:, None] - cuts) < margin_s).any(1)] = NO_SCENE
    needle = None
    if needle_s is not None:
        needle = (times_s >= needle_s[0]) & (times_s < needle_s[1])
        scene[needle] = NO_SCENE
    return Clip(path.name, video.frames, scene, needle)


def corpus_clips(corpus: CorpusManifest, fps: float = 1.0) -> Iterator[Clip]:
    rows = {row["video"]: row for row in map(json.loads, corpus.questions.read_text().splitlines())}
    for row in rows.values():
        needle = row["needle"]
        yield read_clip(
            corpus.directory / row["video"], row["scene_cuts_s"], fps, 0.0, (needle["start_s"], needle["end_s"])
        )


@torch.inference_mode()
def score(clip: Clip, tower: DinoTower) -> Scores:
    pixels = preprocess_frames(clip.frames, tower.image_size, tower.image_mean, tower.image_std)
    features = tower(pixels)
    unit = torch.nn.functional.normalize(features.flatten(1), dim=1)
    cosine = (unit @ unit.T).numpy()
    scenes = sorted(set(clip.scene.tolist()) - {NO_SCENE})
    blocks = {(a, b): cosine[np.ix_(clip.scene == a, clip.scene == b)] for a in scenes for b in scenes if a <= b}
    inside = [block for (a, b), block in blocks.items() if a == b]
    across = [block for (a, b), block in blocks.items() if a != b]
    kept = keep_frames(window_similarity(features), THRESHOLD).numpy()
    return Scores(
        within_lowest=min(float(block.mean(1).min()) for block in inside),
        within_mean=_mean([block[np.triu_indices(len(block), 1)] for block in inside]),
        between_mean=_mean([block.ravel() for block in across]),
        between_highest=max(float(block.mean()) for block in across) if across else None,
        kept=int(kept.sum()),
        needle_kept=None if clip.needle is None else bool(kept[clip.needle].any()),
    )


def _mean(parts: list[NDArray[np.float32]]) -> float | None:
    values = np.concatenate([np.zeros(0, np.float32), *parts])
    return float(values.mean()) if len(values) else None


def print_table(title: str, clips: list[Clip], tower: DinoTower) -> None:
    print(f"\n{title}\n{'':28s} {'':>6s} {'':>6s} |     within      |     between     |")
    print(f"{'file':28s} {'frames':>6s} {'scenes':>6s} |  lowest    mean |    mean highest |  kept  needle")
    for clip in clips:
        s = score(clip, tower)
        within, between = (
            " ".join(f"{'-' if value is None else format(value, '.3f'):>7s}" for value in pair)
            for pair in ((s.within_lowest, s.within_mean), (s.between_mean, s.between_highest))
        )
        needle = {None: "", True: "kept", False: "LOST"}[s.needle_kept]
        scenes = len(set(clip.scene.tolist()) - {NO_SCENE})
        print(f"{clip.name[-28:]:28s} {len(clip.frames):6d} {scenes:6d} | {within} | {between} | {s.kept:5d}  {needle}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE[@CUT,CUT]", help="video, and its cuts in seconds")
    parser.add_argument("--corpus", type=Path, help="a corpus that is already there; default: a fresh one")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second, default 1")
    parser.add_argument("--margin", type=float, default=0.6, help="seconds around a cut that belong to no scene")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = CorpusManifest.load(options.corpus) if options.corpus else write_corpus(scratch, CorpusConfig())
        clips = list(corpus_clips(corpus, options.fps))
    for file in options.files:
        path, _, cuts = file.partition("@")
        clips.append(read_clip(Path(path), map(float, filter(None, cuts.split(","))), options.fps, options.margin))
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print_table("structured weights (longvu_model/initialization.py)", clips, structured_tower())
    print_table("baseline: usual random weights", clips, unstructured_tower())
    return 0


if __name__ == "__main__":
    sys.exit(main())
