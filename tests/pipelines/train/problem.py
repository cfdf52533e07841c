"""A small training problem, and worker processes to solve it with: what tests and figures of engines share."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist

from longvu_model.config import IGNORE_INDEX
from longvu_model.modeling import LongVUForConditionalGeneration
from pipelines.train import stages, staging
from pipelines.train.collate import Bin, collate
from pipelines.train.engine import Engine, StepResult
from pipelines.train.prepared import PreparedSample
from tests.model.builders import media, prompt, small_model

FLOAT32, CPU = torch.float32, torch.device("cpu")


def stage(**changes: Any) -> stages.Stage:
    """A video stage with a learning rate twenty times the published one, on the grids of the small model."""
    return stages.video_stage(**{"learning_rate": 1e-4, "max_sequence_length": 200, "low_grid": 2, **changes})


def model(settings: stages.Stage | None = None, **changes: Any) -> LongVUForConditionalGeneration:
    built = small_model(**changes)
    staging.apply(built, settings or stage())
    return built


def sample(index: int, modality: str, text_tokens: int = 16, frames: int = 5) -> PreparedSample:
    """A sample with random ids of which the second half is learned, and random pixels."""
    slots = () if modality == "text" else (2,)
    ids = prompt(text_tokens, slots, seed=index)[0]
    labels = torch.where(torch.arange(text_tokens) < text_tokens // 2, IGNORE_INDEX, ids)
    shown = None
    if modality == "image":
        shown = media((1, 20, 30), seed=index, images=(0,))
    elif modality == "video":
        shown = media((frames, 30, 20), seed=index)
    count = int((labels[1:] != IGNORE_INDEX).sum())
    return PreparedSample(index, f"sample-{index}", modality, ids, labels, count, shown)


def global_batch(step: int, num_bins: int) -> list[list[PreparedSample]]:
    """Bins of every make-up: videos with text, a short and a long text alone, images, videos in the mixed regime."""
    kinds = [
        [("video", 14, 4), ("text", 9, 0)],
        [("text", 11, 0)],
        [("image", 12, 0), ("text", 20, 0), ("video", 10, 12)],
        [("text", 40, 0), ("text", 5, 0)],
    ]
    return [
        [
            sample(1000 * step + 10 * place + number, *kind)
            for number, kind in enumerate(kinds[(step + place) % len(kinds)])
        ]
        for place in range(num_bins)
    ]


def dealt(bins: Sequence[Sequence[PreparedSample]], rank: int = 0, world_size: int = 1) -> list[Bin]:
    """A rank's share, on the CPU."""
    return [collate(samples, CPU, FLOAT32) for samples in bins[rank::world_size]]


def targets(bins: Sequence[Sequence[PreparedSample]]) -> int:
    return sum(one.num_targets for samples in bins for one in samples)


def run_workers(world_size: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """``work(rank, *arguments)`` in processes joined by gloo; what each returns.

    Raises:
        RuntimeError: a worker failed; the message has its traceback.
    """
    # A server that has imported everything forks the workers: imports are most of what a short worker does.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "pipelines.train.deepspeed_engine", __name__])
    store = folder / f"store-{os.urandom(4).hex()}"
    workers = [
        context.Process(target=_worker, args=(rank, world_size, work, store, arguments)) for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    results = []
    try:
        for rank, worker in enumerate(workers):
            worker.join(240)
            if worker.exitcode:
                raise RuntimeError(f"rank {rank}: {_failure(store, rank)}")
            if worker.exitcode is None:
                raise RuntimeError(f"rank {rank} hangs")
            results.append(torch.load(f"{store}.{rank}", weights_only=False))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return results


def _failure(store: Path, rank: int) -> str:
    path = Path(f"{store}.{rank}.error")
    return path.read_text() if path.exists() else "died"


def _worker(rank: int, world_size: int, work: Callable[..., Any], store: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    try:
        torch.save(work(rank, *arguments), f"{store}.{rank}")
        dist.barrier()
    except BaseException:
        Path(f"{store}.{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        dist.destroy_process_group()


def trajectory(engine: Engine, steps: int, num_bins: int, first: int = 0, total: int = 20) -> list[StepResult]:
    """Steps ``first`` to ``first + steps`` of a run over global batches of ``num_bins`` bins."""
    results = []
    for step in range(first, first + steps):
        bins = global_batch(step, num_bins)
        share = dealt(bins, engine.rank, engine.world_size)
        results.append(engine.step(share, targets(bins), engine.stage.lr_factor(step, total)))
    return results


def gradients(engine: Engine, num_bins: int, batches: int = 4) -> list[Tensor]:
    """The whole gradient, flat, of several global batches at the weights as they are."""
    found = []
    for step in range(batches):
        bins = global_batch(step, num_bins)
        engine.backward(dealt(bins, engine.rank, engine.world_size), targets(bins))
        by_name = engine.gradients()
        engine.discard()
        found.append(torch.cat([by_name[name].flatten() for name in sorted(by_name)]))
    return found


def relative_error(mine: Tensor, expected: Tensor) -> float:
    return float((mine - expected).norm() / expected.norm())
