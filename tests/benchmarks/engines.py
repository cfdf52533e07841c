"""DeepSpeed against plain torch: ``python -m tests.benchmarks.engines``.

ZeRO 0 to 3 x accumulation 1 and 2 x workers 1 and 2, in float32 over gloo, bins of every make-up, each against the
plain engine in one process: the gradient at equal weights, and the losses of 20 steps. Under two minutes.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from pipelines.train.config import EngineSettings
from pipelines.train.engine import Engine
from pipelines.train.torch_engine import TorchEngine
from tests.pipelines.train import problem

STEPS = 20
GRADIENT_LIMIT, LOSS_LIMIT = 1e-6, 2e-6
SMALL_BUCKETS = 2000  # many reductions per step, so that their order matters


def measure(engine: Engine, num_bins: int, steps: int) -> tuple[list[torch.Tensor], list[float]]:
    gradients = problem.gradients(engine, num_bins)
    return gradients, [result.loss for result in problem.trajectory(engine, steps, num_bins)]


def work(rank: int, zero_stages: tuple[int, ...], accumulations: tuple[int, ...], steps: int) -> dict[Any, Any]:
    from pipelines.train.deepspeed_engine import DeepSpeedEngine

    found = {}
    for zero_stage, accumulation in itertools.product(zero_stages, accumulations):
        settings = EngineSettings(kind="deepspeed", zero_stage=zero_stage, bucket_elements=SMALL_BUCKETS)
        engine = DeepSpeedEngine(problem.model(), problem.stage(), settings)
        found[zero_stage, accumulation] = measure(engine, accumulation * dist.get_world_size(), steps)
    return found


def main(zero_stages: tuple[int, ...] = (0, 1, 2, 3), steps: int = STEPS) -> int:
    torch.set_num_threads(1)
    oracles: dict[int, Any] = {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for world_size in (1, 2):
            found = problem.run_workers(world_size, work, Path(folder), zero_stages, (1, 2), steps)
            for zero_stage, accumulation in itertools.product(zero_stages, (1, 2)):
                num_bins = accumulation * world_size
                if num_bins not in oracles:
                    oracle = TorchEngine(problem.model(), problem.stage(), EngineSettings())
                    oracles[num_bins] = measure(oracle, num_bins, steps)
                expected_gradients, expected_losses = oracles[num_bins]
                gradient = loss = 0.0
                for gradients, losses in (ranks[zero_stage, accumulation] for ranks in found):
                    pairs = zip(gradients, expected_gradients, strict=True)
                    gradient = max(gradient, *(problem.relative_error(*pair) for pair in pairs))
                    loss = max(loss, *(abs(a - b) for a, b in zip(losses, expected_losses, strict=True)))
                good = gradient < GRADIENT_LIMIT and loss < LOSS_LIMIT
                failed |= not good
                print(
                    f"{'ok  ' if good else 'FAIL'} ZeRO {zero_stage}, accumulation {accumulation}, "
                    f"workers {world_size}: gradient within {gradient:.1e} (limit {GRADIENT_LIMIT:.0e}), "
                    f"losses of {steps} steps within {loss:.1e} (limit {LOSS_LIMIT:.0e})",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
