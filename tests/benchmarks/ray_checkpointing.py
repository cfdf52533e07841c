"""Ray Data's own checkpointing under the same kills: rows it loses and rows it doubles when one row becomes many.

    python -m tests.benchmarks.ray_checkpointing [--runs 6] [--seed 0]

The pipeline is the plain one: ``read_parquet`` (a row per video) -> ``flat_map`` (a row per sampled frame) ->
``map_batches`` in an actor -> ``write_parquet``, with ``DataContext.checkpoint_config`` on the videos' ids. A video's
rows leave in blocks, as real features do (a block is cut at 128 MiB, five minutes of them; here at as many rows), and a
video counts as done with the first block that is written. Each run loses one process at a random moment and is given
again, with its checkpoint, until it ends well. Prints rows lost and doubled of each; there is no floor to hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.interruption import interrupt
from tests.faults.small_corpus import write_corpus

VICTIMS = ("driver", "encode actor", "raylet")
_PATTERNS = {"encode actor": "MapBatches(Encode)"}
_FRAME_BYTES = 32 << 10
_ROWS_PER_BLOCK = 16


def main() -> int:
    options = _arguments()
    if options.job:
        _run_job(Path(options.job), Path(options.videos))
        return 0
    with tempfile.TemporaryDirectory(prefix="longvu-ray-checkpoint-") as name:
        return _compare(options, Path(name))


def _compare(options: argparse.Namespace, folder: Path) -> int:
    write_corpus(folder / "videos", options.short, options.long_s)
    for damaged in ("cut.mkv", "text.mp4"):
        (folder / "videos" / damaged).unlink()
    table = pa.table({"video": sorted(str(path) for path in (folder / "videos").iterdir())})
    pq.write_table(table, folder / "videos.parquet", row_group_size=1)
    expected = Counter((row["video"], row["frame"]) for video in table.to_pylist() for row in sampled(video))
    print(f"Ray's checkpointing: {len(table)} videos, {len(expected)} rows, {_ROWS_PER_BLOCK} rows per block")
    chance = random.Random(options.seed)
    lost = doubled = 0
    for number in range(options.runs):
        victim = VICTIMS[number % len(VICTIMS)]
        run = folder / f"run{number}"
        run.mkdir()
        command = [sys.executable, "-m", "tests.benchmarks.ray_checkpointing", "--job", str(run)]
        written = chance.randrange(1, len(expected) // _ROWS_PER_BLOCK * 3 // 4)
        result = interrupt(
            ["--videos", str(folder / "videos.parquet")],
            run,
            victim,
            command=command,
            part=_PATTERNS.get(victim),
            progress=lambda run=run: len(list((run / "frames").glob("*.parquet"))),
            after=written,
            delay_s=chance.uniform(0, 0.2),
        )
        found: Counter[Any] = Counter()
        for path in (run / "frames").glob("*.parquet"):
            rows = pq.read_table(path, columns=["video", "frame"]).to_pylist()
            found.update((row["video"], row["frame"]) for row in rows)
        now_lost, now_doubled = len(expected.keys() - found.keys()), found.total() - len(found)
        lost, doubled = lost + now_lost, doubled + now_doubled
        print(
            f"{victim:15} after {result.before} files: lost {now_lost}, doubled {now_doubled}, exits "
            f"{result.exit_codes}, {result.seconds:.0f} s",
            flush=True,
        )
    print(f"Ray's checkpointing, {options.runs} kills: {lost} rows lost, {doubled} doubled")
    return 0


def _run_job(folder: Path, videos: Path) -> None:
    import ray
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    # Logical CPUs: with two, its checkpoint filter and the encoder hold both and nothing is ever read.
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=300 << 20)
    context = DataContext.get_current()
    context.target_max_block_size = _ROWS_PER_BLOCK * _FRAME_BYTES
    context.checkpoint_config = CheckpointConfig(
        id_column="video", checkpoint_path=str(folder / "checkpoint"), delete_checkpoint_on_success=False
    )
    frames = ray.data.read_parquet(str(videos)).flat_map(sampled)
    encoded = frames.map_batches(Encode, batch_size=_ROWS_PER_BLOCK, concurrency=1)
    encoded.write_parquet(str(folder / "frames"))


def sampled(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A video's sampled frames, a row each, as large as a stored frame of a small tower."""
    from longvu_model.video import iter_frame_blocks

    for block in iter_frame_blocks(row["video"], "fps:4"):
        for index, frame in zip(block.indices.tolist(), block.frames, strict=True):
            pixels = np.resize(frame, _FRAME_BYTES).tobytes()
            yield {"video": row["video"], "frame": index, "pixels": pixels}


class Encode:
    """Stands in for the towers: an actor, so that Ray Data does not fuse it with its neighbours."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return batch


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ray_checkpointing", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--runs", type=int, default=6, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--short", type=int, default=12, help="short videos")
    parser.add_argument("--long-s", type=int, default=160, help="seconds of the long one")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--videos", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
