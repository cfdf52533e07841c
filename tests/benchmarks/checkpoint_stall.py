"""What a checkpoint costs the training that it saves: written aside against written at once.

    python -m tests.benchmarks.checkpoint_stall [--checkpoints 8] [--mib 192]

Trains a small text model with a checkpoint at every other step and measures the seconds in which training waits for it:
the copy in memory and the exchange between workers on one side, hashing, writing and syncing too on the other. Both in
turn, in one process. The floor is 20 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from pipelines import storage
from pipelines.train.checkpoint import Progress
from pipelines.train.checkpoint_writer import CheckpointWriter
from pipelines.train.config import EngineSettings
from pipelines.train.torch_engine import TorchEngine
from pipelines.train.world import World
from tests.pipelines.train import problem

_FLOOR = 0.20
_STEPS_BETWEEN = 2


def main() -> int:
    options = _arguments()
    torch.set_num_threads(1)
    stage = problem.stage()
    engine = TorchEngine(problem.model(stage), stage, EngineSettings())
    _enlarge(engine, options.mib)
    size_mib = sum(tensor.nbytes for tensor in engine.snapshot().values()) / 2**20
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="longvu-checkpoint-stall-") as name:
        for asynchronous in (True, False) * options.checkpoints:
            seconds[asynchronous].append(_stall(engine, Path(name), asynchronous))
    aside, at_once = (statistics.median(seconds[kind]) for kind in (True, False))
    print(
        f"checkpoint of {size_mib:.0f} MiB: training waits {aside * 1e3:.0f} ms written aside, {at_once * 1e3:.0f} ms "
        f"written at once: {aside / at_once:.1%} (floor {_FLOOR:.0%}), medians of {options.checkpoints}"
    )
    return 0 if aside / at_once <= _FLOOR else 1


def _stall(engine: TorchEngine, folder: Path, asynchronous: bool) -> float:
    """Seconds in which training waits for one checkpoint, steps being done while it is written."""
    root = storage.resolve(folder / "checkpoints")
    writer = CheckpointWriter(root, "start", World(), None, lambda progress: progress, lambda _: None)
    writer.begin(engine, Progress(1, "plan", "config", "model", 1))
    if not asynchronous:
        writer.wait()
    stalled_s = writer.stalled_s
    while writer.committed < writer.begun:
        problem.trajectory(engine, _STEPS_BETWEEN, num_bins=1)
        written, committed = writer.state
        writer.advance(bool(written), committed)
    stalled_s = max(stalled_s, writer.stalled_s)
    writer.close()
    return stalled_s


def _enlarge(engine: TorchEngine, mib: int) -> None:
    """Give the embeddings and their moments a size at which writing is what costs."""
    name = next(name for name in engine.trained if "embed_tokens" in name)
    parameter = engine.trained[name]
    rows = mib * 2**20 // (3 * 4 * parameter.shape[1])
    parameter.data = torch.cat([parameter.data, torch.randn(rows, parameter.shape[1]) * 0.02])
    for kind in ("exp_avg", "exp_avg_sq"):
        engine.optimizer.state[parameter][kind] = torch.zeros_like(parameter.data)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checkpoint_stall", description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=8, help="of each kind")
    parser.add_argument("--mib", type=int, default=192, help="size of the checkpoint")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
