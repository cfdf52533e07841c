"""Does training teach? The tiny model learns the colour of a needle in a video, from random weights.

    python -m tests.benchmarks.training_needle [--stills 480] [--videos 400] [--heldout 96]

Writes the splits of jobs/configs/corpus_demo.yaml (a coloured shape is visible for 1.5 of 60 seconds; eight colours,
so chance is 1/8), stores their features, and trains as published: the image stage on stills, its export, the
video stage on videos, each by the command line with the shipped configuration. Prints the share of unseen videos whose
colour the model names word for word, before and after, and the seconds that the training commands took, everything
included. Exits with 1 below the floor.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import needle_corpus

_FLOOR, _MOST_S = 0.90, 300.0


def main() -> int:
    options = _arguments()
    with contextlib.ExitStack() as stack:
        root = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-needle-")))
        splits, corpus = needle_corpus.written(root, options)
        store = needle_corpus.stored(root, splits)
        shared = [f"data.media_root={splits.folder}", f"data.store={store}", f"output={root}", f"workdir={root}"]
        shared += [f"data.heldout={splits.heldout}"]
        started_s = time.monotonic()
        image = _train("train_tiny_image", [f"data.annotations={splits.stills}", *shared])
        stills_s = time.monotonic() - started_s
        exported = root / "image-stage"
        needle_corpus.job("jobs.train", ["export", image["checkpoint"], str(exported)])
        video = _train("train_tiny_video", [f"data.annotations={splits.train}", f"model={exported}", *shared])
        seconds = time.monotonic() - started_s
    share = float(video["heldout/exact_match"])
    print(
        f"colour of the needle in {options.heldout} unseen videos: {share:.1%} right after {seconds:.0f} s of training "
        f"on two workers, {stills_s:.0f} s of it the image stage, after which it was "
        f"{float(image['heldout/exact_match']):.1%}; chance {1 / len(corpus.colours):.1%} "
        f"(floors {_FLOOR:.0%}, {_MOST_S:g} s)"
    )
    return 0 if share >= _FLOOR and seconds <= _MOST_S else 1


def _train(config: str, words: list[str]) -> dict[str, str]:
    """Train; what the command printed, by name."""
    printed = needle_corpus.job("jobs.train", ["train", "--config", f"jobs/configs/{config}.yaml", *words])
    (steps,) = [line for line in printed.splitlines() if " steps: " in line]
    told = dict(re.findall(r"([\w./]+) ([\d.e+-]+)", steps))
    checkpoint = re.search(r"^checkpoint: (\S+)$", printed, re.MULTILINE)
    assert checkpoint is not None, printed
    return told | {"checkpoint": checkpoint[1]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_needle", description=__doc__)
    needle_corpus.add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
