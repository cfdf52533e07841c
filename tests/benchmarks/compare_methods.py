"""Three methods learn the same needle and are asked about the same unseen videos: accuracy against visual tokens.

    python -m tests.benchmarks.compare_methods [--folder FOLDER] [--only videollamb] [--model longvu=CHECKPOINT ...]

Writes the splits of jobs/configs/corpus_demo.yaml, stores the features of each family's towers, and trains each tiny
model by the command line with its shipped configuration: first on stills, then, from the export, on videos. Then runs
`longvu compare-methods` on the unseen videos and prints its table: accuracy with 95 per cent intervals clustered by
video, visual tokens per video and per minute, and uniform sampling at each method's budget. Exits with 1 unless the
interval of each method lies above chance (1/8) by the margin given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

from pipelines.corpus import Splits
from pipelines.extract.towers import model_folder
from tests.benchmarks import needle_corpus

# The lower end of the 95 per cent interval, in points above chance.
_FLOOR_ABOVE_CHANCE = 0.10
_STAGES = {
    "longvu": ("tiny", "train_tiny_image", "train_tiny_video"),
    "videollamb": ("tiny_videollamb_mem", "train_tiny_videollamb", "train_tiny_videollamb"),
    "llamavid": ("tiny_llamavid", "train_tiny_llamavid", "train_tiny_llamavid"),
}


def main() -> int:
    options = _arguments()
    given = dict(pair.split("=", 1) for pair in options.model)
    with contextlib.ExitStack() as stack:
        root = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-methods-")))
        splits, corpus = needle_corpus.written(root, options)
        models = {
            name: given.get(name) or _trained(name, root, splits, options.in_process)
            for name in options.only or _STAGES
        }
        words = [f"models.{name}={folder}" for name, folder in models.items()]
        words += [f"data={splits.heldout_corpus}", f"output={root}", f"workdir={root}"]
        if "longvu" not in models:
            words.append(f"baseline={next(iter(models))}")
        print(needle_corpus.job("jobs.methods", ["--in-process", *words]))
        points = json.loads((root / "methods" / "methods.json").read_text())
    chance, passed = 1 / len(corpus.colours), True
    for point in points:
        if point["family"] in _STAGES:
            low, high = point["interval"]
            passed &= low >= chance + _FLOOR_ABOVE_CHANCE
            print(
                f"{point['method']}: {point['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {point['questions']} unseen "
                f"videos, {point['tokens_per_minute']:.0f} visual tokens per minute; chance {chance:.1%} "
                f"(floor: the interval's end {_FLOOR_ABOVE_CHANCE:.0%} above it; it is {low - chance:+.1%})"
            )
    return 0 if passed else 1


def _trained(name: str, root: Path, splits: Splits, in_process: bool) -> Path:
    """The export of a tiny model that learned from stills and then from videos; made before, it is taken as it is."""
    preset, *stages = _STAGES[name]
    done = root / "models" / f"{name}-trained"
    if done.exists():
        return done
    started_s = time.monotonic()
    folder = model_folder(preset, root)
    store = needle_corpus.stored(root, splits, preset, name)
    for last, stage, rows in zip((False, True), stages, (splits.stills, splits.train), strict=True):
        words = [f"model={folder}", f"data.annotations={rows}", f"data.heldout={splits.heldout}"]
        words += [f"data.media_root={splits.folder}", f"data.store={store}", f"output={root}", f"workdir={root}"]
        words += ["--in-process"] if in_process else []
        told = needle_corpus.job("jobs.train", ["train", "--config", f"jobs/configs/{stage}.yaml", *words])
        (steps,) = [line for line in told.splitlines() if " steps: " in line]
        print(f"{name}: {rows.stem}: {steps}", flush=True)
        (checkpoint,) = [line.split()[1] for line in told.splitlines() if line.startswith("checkpoint: ")]
        folder = done if last else root / "models" / f"{name}-stills"
        needle_corpus.job("jobs.train", ["export", checkpoint, str(folder)])
    print(f"{name}: features, training and export took {time.monotonic() - started_s:.0f} s", flush=True)
    return done


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare_methods", description=__doc__)
    needle_corpus.add_arguments(parser)
    parser.add_argument("--only", nargs="*", choices=list(_STAGES), help="methods; default: all three")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="a trained checkpoint")
    parser.add_argument("--in-process", action="store_true", help="train without Ray, with one worker")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
