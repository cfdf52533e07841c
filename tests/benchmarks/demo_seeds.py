"""Does LongVU find needles that uniform sampling misses, whatever the seed? The demo up to its evaluation, three times.

    python -m tests.benchmarks.demo_seeds [--seeds 0,1,2] [--folder FOLDER]

Each seed has its own videos, training order and unseen videos. Both rows of a seed are answers of one model about
the same questions: once with the frames that LongVU selects, once with evenly spread frames that cost at least as many
visual tokens. A reply that names no colour counts as wrong. Exits with 1 below the floor or above the ceiling.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from jobs.story import tell
from pipelines.report.artifacts import read_artifacts
from pipelines.report.tables import share
from pipelines.tables import print_table

_FLOOR, _MOST_UNIFORM = 0.90, 0.60


def main() -> int:
    options = _arguments()
    rows, good = [], True
    with contextlib.ExitStack() as stack:
        root = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-seeds-")))
        for seed in map(int, options.seeds.split(",")):
            folder = root / f"seed-{seed}"
            tell(folder, seed, options.size, serving=False)
            found = read_artifacts(folder)
            ours, uniform = (next(one for one in found.scored if one.name == name) for name in ("longvu", "uniform"))
            training_s = sum(record.seconds for record in found.stages if record.name.startswith("train "))
            for one in (ours, uniform):
                tokens = f"{one.visual_tokens:.0f}" if one.visual_tokens is not None else "unknown"
                frames = str(one.summary["frames"])
                rows.append((str(seed), one.name, frames, tokens, share(one), str(one.score["n"]), f"{training_s:.0f}"))
            good &= ours.score["value"] >= _FLOOR and uniform.score["value"] <= _MOST_UNIFORM
            assert (uniform.visual_tokens or 0) >= (ours.visual_tokens or 0), "the baseline must not be short of tokens"
    print_table(("seed", "frames by", "rule", "visual tokens", "right", "questions", "training s"), rows, sys.stdout)
    print(f"chance {1 / 8:.1%}; floor of longvu {_FLOOR:.0%}, ceiling of uniform {_MOST_UNIFORM:.0%}")
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.demo_seeds", description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--size", default="full", help="full; smoke only shows that the script works")
    parser.add_argument("--folder", help="keep everything here; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
