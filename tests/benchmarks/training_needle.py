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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.config import load_config
from pipelines.corpus import Splits, SplitsConfig, write_splits
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers, model_folder
from tests.pipelines.extract.conftest import extract_without_ray

CORPUS = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "corpus_demo.yaml"
_FLOOR, _MOST_S = 0.90, 300.0


def main() -> int:
    options = _arguments()
    with contextlib.ExitStack() as stack:
        root = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-needle-")))
        counts = [f"{name}={getattr(options, name)}" for name in ("stills", "videos", "heldout")]
        config = load_config(SplitsConfig, CORPUS, counts)
        splits = write_splits(root / "corpus", config)
        store = _data(root, splits)
        shared = [f"data.media_root={splits.folder}", f"data.store={store}", f"output={root}", f"workdir={root}"]
        shared += [f"data.heldout={splits.heldout}"]
        started_s = time.monotonic()
        image = _train("train_tiny_image", [f"data.annotations={splits.stills}", *shared])
        stills_s = time.monotonic() - started_s
        exported = root / "image-stage"
        _run(["export", image["checkpoint"], str(exported)])
        video = _train("train_tiny_video", [f"data.annotations={splits.train}", f"model={exported}", *shared])
        seconds = time.monotonic() - started_s
    share = float(video["heldout.exact_match"])
    print(
        f"colour of the needle in {options.heldout} unseen videos: {share:.1%} right after {seconds:.0f} s of training "
        f"on two workers, {stills_s:.0f} s of it the image stage, after which it was "
        f"{float(image['heldout.exact_match']):.1%}; chance {1 / len(config.colours):.1%} "
        f"(floors {_FLOOR:.0%}, {_MOST_S:g} s)"
    )
    return 0 if share >= _FLOOR and seconds <= _MOST_S else 1


def _data(root: Path, splits: Splits) -> str:
    """The store of all features; its URI."""
    config = ExtractConfig(
        source=[str(folder) for folder in splits.media],
        store=str(root),
        workdir=str(root),
        keep_all_below=0,
        features={"siglip": True},  # type: ignore[arg-type]
    )
    return extract_without_ray(config, load_towers(model_folder("tiny", root), ("dinov2", "siglip"))).uri


def _train(config: str, words: list[str]) -> dict[str, str]:
    """Train; what the command printed, by name."""
    printed = _run(["train", "--config", f"jobs/configs/{config}.yaml", *words])
    told = dict(re.findall(r"([\w.]+) ([\d.e+-]+)", printed.splitlines()[0]))
    checkpoint = re.search(r"^checkpoint: (\S+)$", printed, re.MULTILINE)
    assert checkpoint is not None, printed
    return told | {"checkpoint": checkpoint[1]}


def _run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, "-m", "jobs.train", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"jobs.train {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [line for line in done.stderr.splitlines() if "step " in line]
    print("\n".join(lines), file=sys.stderr, flush=True)
    return done.stdout[done.stdout.rfind("\n", 0, done.stdout.find("steps:")) + 1 :]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_needle", description=__doc__)
    parser.add_argument("--stills", type=int, default=480, help="stills to learn from")
    parser.add_argument("--videos", type=int, default=400, help="videos to learn from")
    parser.add_argument("--heldout", type=int, default=96, help="unseen videos")
    parser.add_argument("--folder", help="keep everything here; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
