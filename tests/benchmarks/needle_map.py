"""Where does the tiny model still see the needle? Its heat map by depth and length of video, beside chance.

    python -m tests.benchmarks.needle_map MODEL [--lengths 60,120] [--repeats 8] [--out FOLDER]

MODEL is a model folder that learned the corpus of ``tests.benchmarks.training_needle`` (60-second videos), such as the
export of the video stage's checkpoint that it leaves with ``--folder``. Evaluates it by the command line on videos that
nobody has seen, and the same preset with its untrained weights on the same videos; prints the shares of right answers
and where the heat maps are. Exits with 1 below the floor at the length that was learned.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet

from jobs import evaluate
from pipelines.config import load_config
from pipelines.corpus import SplitsConfig
from tests.benchmarks.needle_corpus import CONFIG

_FLOOR = 0.7
_LEARNED_S = 60
_SEED = 77


def main() -> int:
    options = _arguments()
    lengths = [int(length) for length in options.lengths.split(",")]
    with contextlib.ExitStack() as stack:
        root = Path(options.out or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-needle-map-")))
        trained = _shares("trained", options.model, lengths, options.repeats, root)
        untrained = _shares("untrained", "tiny", lengths, options.repeats, root)
        maps = ", ".join(str(path) for path in sorted(root.rglob("needle_grid_*.png")))
    for length in lengths:
        print(
            f"needle in {length} s of video, {options.repeats} videos at each of 5 depths: {trained[length]:.1%} "
            f"right; untrained {untrained[length]:.1%}; chance {1 / len(load_config(SplitsConfig, CONFIG).colours):.1%}"
            + (f" (floor {_FLOOR:.0%})" if length == _LEARNED_S else "")
        )
    if options.out:
        print(f"heat maps: {maps}")
    return 0 if trained.get(_LEARNED_S, 1.0) >= _FLOOR else 1


def _shares(name: str, model: str, lengths: Sequence[int], repeats: int, root: Path) -> dict[int, float]:
    """Share of right answers by length; a reply that commits to none is not right, what failed does not count."""
    learned = load_config(SplitsConfig, CONFIG)
    grid = {
        "lengths_s": list(lengths),
        "num_depths": 5,
        "repeats": repeats,
        "seed": _SEED,
        "fps": learned.fps,
        "width": learned.width,
        "height": learned.height,
        "scenes": list(learned.scenes),
        "colours": list(learned.colours),
        "needle_area": learned.needle_area,
        "needle_s": learned.needle_seconds[1],
    }
    words = ["task=needle_grid", "preset=text", f"name={name}", f"model={model}", f"data={root}"]
    words += [f"output={root}", f"workdir={root}", *(f"options.{key}={value}" for key, value in grid.items())]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if evaluate.main(words):
            raise RuntimeError(printed.getvalue())
    print(printed.getvalue(), file=sys.stderr)
    (table,) = root.glob(f"evaluate/{name}-*/*.parquet")
    rows = pyarrow.parquet.read_table(table).to_pylist()
    shares: dict[int, list[float]] = {length: [] for length in lengths}
    for row in rows:
        if row["status"] != "failed":
            shares[int(dict(row["categories"])["length_s"])].append(row["score"] or 0.0)
    return {length: sum(scores) / max(1, len(scores)) for length, scores in shares.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.needle_map", description=__doc__)
    parser.add_argument("model", help="model folder")
    parser.add_argument("--lengths", default="60,120", help="seconds, separated by commas")
    parser.add_argument("--repeats", type=int, default=8, help="videos per cell, one of every colour")
    parser.add_argument("--out", help="keep everything here; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
