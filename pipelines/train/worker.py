"""Training on Ray: workers that are placed, watched and started again.

Ray Train starts the workers, joins them in a process group and, when one dies, starts all of them again; what they go
on from is our own newest checkpoint. The driver only waits. A mistake of the user's, or a run that halts itself, ends a
worker normally and is raised again by the driver: starting such a worker again would come to the same.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import JobStopped, UserError
from pipelines.train.preemption import call_off

if TYPE_CHECKING:
    from pipelines.train.loop import Outcome
    from pipelines.train.run import Run
    from pipelines.train.trainer import DriverTrainer

_STOP_WITHIN_S = 120.0
"""After SIGTERM or Ctrl-C, until a run is given up that has not saved."""
_PLACED_WITHIN_S = 5.0
"""The same if there is no worker that could save."""


@dataclass(frozen=True)
class _Refusal:
    """A user error on its way from a worker to the driver."""

    message: str
    stopped: bool


def train_on_ray(run: Run) -> Outcome:
    """Train with the workers that the configuration asks for, until the end or until this process is asked to stop.

    Ray must be running. When this process gets SIGTERM or Ctrl-C, the workers write a checkpoint first.

    Raises:
        UserError: what a worker could not use, or a Ray of our own lacks GPUs.
        JobStopped: training halted, cannot write, or its workers died too often.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from pipelines.train.trainer import DriverTrainer, ListeningConfig, LocalTrainer

    workers, workdir = run.config.workers, Path(run.config.workdir).resolve()
    ours = "RAY_ADDRESS" not in os.environ
    if ours and workers.count * workers.gpus > (found := ray.cluster_resources().get("GPU", 0.0)):
        raise UserError(
            f"workers.count={workers.count} with workers.gpus={workers.gpus:g} each: this machine has {found:g} GPUs"
        )
    trainer = (LocalTrainer if ours else DriverTrainer)(
        train_worker,  # type: ignore[arg-type]  # whose value Ray hands on
        train_loop_config={"run": run},
        torch_config=ListeningConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=RunConfig(
            name=f"{run.config.name}-{run.config.digest12}",
            storage_path=str(workdir / "ray-train"),
            # ray.train gives the second version of its classes, type checkers are shown the first.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=workers.restarts, controller_failure_limit=workers.restarts
            ),
        ),
    )
    result = _fit(trainer)
    told = result.return_value
    if isinstance(told, _Refusal):
        raise (JobStopped if told.stopped else UserError)(told.message)
    return told


def _fit(trainer: DriverTrainer) -> Any:
    """Call ``fit`` in a thread, so that a signal reaches this one, which then asks the workers to stop."""
    from ray.train import TrainingFailedError

    outcome: dict[str, Any] = {}
    ended = threading.Event()  # a join that a signal interrupts takes the thread for dead (Python 3.11)

    def call() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:
            outcome["error"] = error
        finally:
            ended.set()

    threading.Thread(target=call, name="trainer", daemon=True).start()
    try:
        while not ended.wait(0.5):
            pass
    except BaseException:
        late_s = time.monotonic() + _STOP_WITHIN_S
        alone_s = time.monotonic() + _PLACED_WITHIN_S
        while not ended.wait(0.5) and time.monotonic() < late_s:
            if trainer.on_workers(call_off):  # again and again: they may just be starting
                alone_s = math.inf
            elif time.monotonic() > alone_s:
                break
        if not ended.is_set():
            sys.stderr.write("no worker has saved anything since\n")
        raise
    error = outcome.get("error")
    if isinstance(error, TrainingFailedError):
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise JobStopped(f"training failed after all its restarts (workers.restarts): {lines[-1]}") from error
    if error is not None:
        raise error
    return outcome["result"]


def train_worker(arguments: dict[str, Any]) -> Outcome | _Refusal:
    """What each worker runs: :func:`pipelines.train.loop.train` with materials of its own."""
    import ray.train.torch
    from transformers.utils import logging as transformers_logging

    from pipelines.train.engine_state import CheckpointMismatch
    from pipelines.train.loop import train
    from pipelines.train.materials import make_materials
    from pipelines.train.preemption import Preempted, asked, called_off
    from pipelines.train.world import World

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    run: Run = arguments["run"]

    def notice() -> str:
        return "preempted" if asked() else "stop" if called_off() else ""

    world, materials, problem = World(), None, None
    try:
        materials = make_materials(run, ray.train.torch.get_device())
    except UserError as error:
        problem = str(error)
    problems = [found for found in world.gather(problem) if found]
    if materials is None or problems:
        return _Refusal(problems[0], stopped=False)
    try:
        outcome = train(materials, world, notice)
    except (CheckpointMismatch, JobStopped) as error:  # what all workers raise together
        return _Refusal(str(error), isinstance(error, JobStopped))
    if outcome.notice == "preempted":
        raise Preempted(f"asked to go at step {outcome.cursor}, which is saved")
    return outcome
