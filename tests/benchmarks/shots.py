"""Precision and recall of the shot boundary stage, at 1 and 5 sampled frames per second, beside a plain rule.

    python -m tests.benchmarks.shots [--videos 6] [--directory DIR]

- corpus: videos of the synthetic corpus (a seed that nothing was tuned on); cuts between places, and the needle.
- hard: painted places under a panning camera, flashes of 0.1 to 0.2 s, lamps that go out, half the places in the
  colours of the one before; cuts, dissolves of 1 s and fades through black of 1.2 s (seeds that nothing was tuned on).
- real: three videos of the shared folder, if it is there, with transitions found by eye; thresholds were set knowing
  them, so these figures say that it holds together, not how it generalises.

The plain rule is that of content detectors: the mean absolute difference of hue, saturation and value between a frame
and the one before is at least 27 of 255. A detection counts once, for a transition that lies between the frame and the
one before it; all others are false.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from longvu_model.video import decode_frames
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.corpus.scenes import PAINTERS, PALETTES, SensorNoise
from pipelines.extract.shot_boundaries import shot_boundaries
from pipelines.extract.stage_columns import reduced

_EDGE_PX = 128
_RATES = (1, 5)
_CONTENT_THRESHOLD = 27.0
_SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos"
# Start and end of every transition, seconds.
_REAL = {
    "longvu_example.mp4": [(3.4, 3.5), (9.5, 11.0), (16.5, 17.0)],
    "nasa_h264_two_streams.mp4": [(4.8, 6.0), (7.5, 8.0)],
    "pancake.mkv": [],
}
_WIDTH, _HEIGHT, _FPS = 320, 180, 10

Transition = tuple[float, float]


@dataclass(frozen=True)
class Clip:
    """Sampled frames uint8 (T, H, W, 3), their times (T,), and where shots change."""

    frames: np.ndarray
    pts_s: np.ndarray
    transitions: list[Transition]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shots", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=6, help="of the corpus; the hard set has twice as many")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "longvu-shots-benchmark")
    arguments = parser.parse_args()
    sets: dict[str, Callable[[float], Iterator[Clip]]] = {
        "corpus": lambda fps: corpus(arguments.directory / f"corpus{arguments.videos}", arguments.videos, fps),
        "hard": lambda fps: (hard(100 + number, fps) for number in range(2 * arguments.videos)),
    }
    if _SHARED.is_dir():
        sets["real"] = lambda fps: (decoded(_SHARED / name, spans, fps) for name, spans in _REAL.items())
    print(_row("set", "fps", "changes", "precision", "recall", "plain rule: precision", "recall"))
    for name, clips in sets.items():
        for fps in _RATES:
            print_row(name, fps, list(clips(fps)))
    cost = Clip(np.random.default_rng(0).integers(0, 256, (256, 72, 128, 3), np.uint8), np.arange(256.0), [])
    started_s = time.process_time()
    stage(cost)
    print(f"cost: {(time.process_time() - started_s) / 256 * 1000:.2f} CPU-ms per sampled frame, resizing not included")
    return 0


def print_row(name: str, fps: int, clips: list[Clip]) -> None:
    cells = []
    for rule in (stage, plain):
        hits, found = (sum(values) for values in zip(*(score(clip, rule(clip)) for clip in clips), strict=True))
        wanted = sum(len(clip.transitions) for clip in clips)
        cells.append((f"{hits / found:.3f}" if found else "-", f"{hits / wanted:.3f}"))
    print(_row(name, fps, wanted, *cells[0], *cells[1]), flush=True)


def _row(*cells: object) -> str:
    return "{:8} {:>3} {:>7}  {:>9} {:>6}   {:>21} {:>6}".format(*cells)


def stage(clip: Clip) -> np.ndarray:
    """Positions at which the stage begins shots."""
    return np.flatnonzero([bool(begin) for begin in shot_boundaries(clip.frames, clip.pts_s)["shot_boundary"]])


def plain(clip: Clip) -> np.ndarray:
    """Positions at which the plain rule does."""
    hsv = np.stack([np.asarray(Image.fromarray(frame).convert("HSV"), np.int16) for frame in clip.frames])
    hue = np.abs(np.diff(hsv[..., 0], axis=0))
    change = np.abs(np.diff(hsv, axis=0)).astype(np.float32)
    change[..., 0] = np.minimum(hue, 256 - hue)
    return np.flatnonzero(change.mean(axis=(1, 2, 3)) >= _CONTENT_THRESHOLD) + 1


def score(clip: Clip, begins: np.ndarray) -> tuple[int, int]:
    """Transitions that were found, and boundaries that were."""
    left, hits = begins.tolist(), 0
    for start_s, end_s in clip.transitions:
        here = [at for at in left if clip.pts_s[at - 1] < end_s + 1e-6 and clip.pts_s[at] > start_s + 1e-6]
        if here:
            left.remove(here[0])
            hits += 1
    return hits, len(begins)


def decoded(path: Path, transitions: list[Transition], fps: float) -> Clip:
    video = decode_frames(path, f"fps:{fps:g}")
    return Clip(_reduced(video.frames), video.pts_s, transitions)


def corpus(folder: Path, num_videos: int, fps: float) -> Iterator[Clip]:
    config = CorpusConfig(num_videos=num_videos, seconds=60, seed=7)
    manifest = write_corpus(folder, config)
    rows = [json.loads(line) for line in manifest.questions.read_text().splitlines()]
    cuts = {row["video_id"]: row["scene_cuts_s"] for row in rows}
    for path in manifest.videos:
        yield decoded(path, [(cut_s - 1 / config.fps, cut_s) for cut_s in cuts[path.stem]], fps)


def hard(seed: int, fps: float, shots: int = 6) -> Clip:
    """One generated video of the hard set, sampled."""
    rng = np.random.default_rng(seed)
    noise = SensorNoise(rng, _WIDTH, _HEIGHT)
    names = rng.permutation(sorted(PAINTERS))
    palette = PALETTES[0][0]
    frames: list[np.ndarray] = []
    transitions: list[Transition] = []
    for shot in range(shots):
        if shot % 2 == 0:  # every second place has the colours of the one before
            palette = PALETTES[rng.integers(len(PALETTES))][rng.integers(2)]
        taken = list(take(PAINTERS[names[shot % len(names)]], np.array(palette, np.float32), rng, noise))
        kind = rng.choice(["cut", "cut", "dissolve", "fade"]) if frames else "cut"
        first = len(frames)
        if kind == "dissolve":
            length, first = _FPS, first - _FPS
            weights = np.linspace(0, 1, length + 2)[1:-1]
            mixed = zip(frames[first:], taken[:length], weights, strict=True)
            frames[first:] = [one * (1 - weight) + other * weight for one, other, weight in mixed]
            taken = taken[length:]
            last = first + length
        elif kind == "fade":
            length = round(0.6 * _FPS)
            dark = np.linspace(1, 0, length)
            frames[-length:] = [frame * light for frame, light in zip(frames[-length:], dark, strict=True)]
            taken[:length] = [frame * light for frame, light in zip(taken[:length], dark[::-1], strict=True)]
            first, last = first - length, first + length
        else:
            last = first
        if frames:
            transitions.append(((first - 1) / _FPS, last / _FPS))
        frames += taken
    step = round(_FPS / fps)
    video = np.stack([frame.astype(np.uint8) for frame in frames[::step]])
    return Clip(_reduced(video), np.arange(len(frames))[::step] / _FPS, transitions)


def take(
    painter: Callable[..., np.ndarray], palette: np.ndarray, rng: np.random.Generator, noise: SensorNoise
) -> Iterator[np.ndarray]:
    """Six to ten seconds of one place, float32 (H, W, 3) each."""
    canvas = painter(rng, palette, _HEIGHT, 3 * _WIDTH)
    place = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    count = int(rng.integers(6 * _FPS, 10 * _FPS))
    speed = rng.choice([0, 1, 1]) * rng.uniform(0, 0.25) * _WIDTH / _FPS
    flashes = {
        int(at) + later for at in rng.integers(15, count - 15, rng.integers(3)) for later in range(rng.integers(1, 3))
    }
    lamp_off = int(rng.integers(20, count - 20)) if rng.random() < 0.3 else count
    for frame in range(count):
        left = _WIDTH - abs(_WIDTH - (frame * speed) % (2 * _WIDTH))  # to and fro
        picture = place.crop((round(left), 0, round(left) + _WIDTH, _HEIGHT))
        pixels = np.asarray(noise.apply(picture, frame), np.float32)
        if frame in flashes:
            pixels = pixels * 1.3 + 90
        yield np.clip(pixels * (0.5 if frame >= lamp_off else 1.0), 0, 255)


def _reduced(frames: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(reduced(Image.fromarray(frame), _EDGE_PX)) for frame in frames])


if __name__ == "__main__":
    raise SystemExit(main())
