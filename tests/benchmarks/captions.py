"""Captions of a long video while it plays: speed, cost per frame as it grows, memory. Floor: 5 times real time.

    python -m tests.benchmarks.captions                      # ten minutes, and the published rule on its first two
    python -m tests.benchmarks.captions --minutes 60 --published-minutes 0
    python -m tests.benchmarks.captions --video film.mkv --model checkpoints/videollamb

The first lines are of the default rule: how many times as fast as the video plays, the milliseconds that a frame of the
first and of the last quarter costs (decoding, encoding, detection and captions together), and the most memory that was
resident in the first five minutes and until the end, at most 10 % more. Then the same of the release's rule, the
baseline, which looks at all frames again for each one: on its own stretch of video, in the same run. Exits with 1 where
the default rule misses a floor.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from longvu_model.presets import build_preset
from pipelines import captions
from pipelines.captions import Caption, CaptionSettings, stream_captions, timed_frames
from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.video_models import load_video_model
from pipelines.video_models.videollamb import VideoLLaMB
from tests.benchmarks.decode import repeated

FLOOR = 5.0
GROWTH = 1.10
EARLY_S = 300.0


@dataclass
class Run:
    """What a stream took: when each frame was asked for, and how much memory was held then."""

    captions: list[Caption] = field(default_factory=list)
    asked_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    played_s: float = 0.0
    early: int = 0

    def note(self, played_s: float) -> None:
        """A frame of that time is asked for."""
        self.played_s = played_s
        self.asked_s.append(time.perf_counter())
        self.resident_bytes.append(_resident_bytes())
        if played_s <= EARLY_S:
            self.early = len(self.resident_bytes)

    @property
    def seconds(self) -> float:
        """From the first frame to the end."""
        return self.asked_s[-1] - self.asked_s[0]

    @property
    def speed(self) -> float:
        """Times real time."""
        return self.played_s / self.seconds

    @property
    def growth(self) -> float:
        """Most memory until the end, over the first minutes'."""
        return max(self.resident_bytes) / max(self.resident_bytes[: self.early])

    def report(self, name: str, floor: str = "") -> None:
        cost_ms = np.diff(self.asked_s) * 1e3
        quarter = max(1, len(cost_ms) // 4)
        early_mib, all_mib = (max(part) / 2**20 for part in (self.resident_bytes[: self.early], self.resident_bytes))
        tokens = sum(caption.visual_tokens for caption in self.captions)
        first_ms, last_ms = cost_ms[:quarter].mean(), cost_ms[-quarter:].mean()
        print(f"{name}: {len(cost_ms)} frames, {len(self.captions)} captions of {tokens} visual tokens, ", end="")
        print(f"{self.seconds:.1f} s, {self.speed:.1f} times real time{floor}; ", end="")
        print(f"first quarter {first_ms:.1f} ms a frame, last {last_ms:.1f} ms; peak memory of ", end="")
        print(f"{min(self.played_s, EARLY_S) / 60:.0f} min {early_mib:.0f} MiB, ", end="")
        print(f"of {self.played_s / 60:.0f} min {all_mib:.0f} MiB: {self.growth:.2f} (at most {GROWTH:g})")


def run(model: VideoLLaMB, video: Path, seconds: float | None, settings: CaptionSettings) -> Run:
    result = Run()

    def noted(source: str | Path, fps: float) -> Iterator[tuple[float, np.ndarray]]:
        for time_s, frame in timed_frames(source, fps):
            if seconds is not None and time_s >= seconds:
                break
            result.note(time_s)
            yield time_s, frame
        result.note(result.played_s)

    with mock.patch.object(captions, "timed_frames", noted):
        result.captions = list(stream_captions(model, video, settings))
    result.note(result.played_s)
    return result


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the generated video")
    parser.add_argument(
        "--published-minutes", type=float, default=2.0, help="of it, for the release's rule; 0: leave out"
    )
    parser.add_argument("--video", type=Path, help="a file instead of a generated one")
    parser.add_argument("--model", type=Path, help="checkpoint folder instead of tiny_videollamb")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--show", type=int, default=5, metavar="N", help="captions of each rule to print")
    options = parser.parse_args(argv)
    print(f"{platform.machine()}, {platform.processor() or 'unknown processor'}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        model = load_video_model(options.model or build_preset("tiny_videollamb", Path(folder) / "model"))
        assert isinstance(model, VideoLLaMB)
        video = options.video or _generated(Path(folder) / "corpus", options.minutes)
        settings = CaptionSettings(max_new_tokens=options.max_new_tokens)
        list(itertools.islice(stream_captions(model, video, settings), 1))  # first calls take their memory
        ours = run(model, video, None, settings)
        ours.report("default", f" (floor {FLOOR:g})")
        _show(ours, options.show)
        if options.published_minutes:
            model.config.semantics = "published"
            theirs = run(model, video, options.published_minutes * 60, settings)
            theirs.report("published")
            _show(theirs, options.show)
    return int(ours.speed < FLOOR or ours.growth > GROWTH)


def _generated(folder: Path, minutes: float) -> Path:
    """A minute of three scenes, again and again."""
    write_corpus(folder, CorpusConfig(num_videos=1, seconds=60, scenes=(3,)))
    minute = next(iter(sorted(folder.rglob("*.mp4"))))
    return repeated(minute, folder / "repeated.mp4", max(1, round(minutes)))


def _show(result: Run, count: int) -> None:
    for caption in result.captions[:count]:
        print(f"    {caption}  ({caption.frames} frames, {caption.visual_tokens} tokens, {caption.seconds:.2f} s)")


if __name__ == "__main__":
    raise SystemExit(main())
