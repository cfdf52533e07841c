"""Training on Ray: workers that are placed, watched and started again.

Ray Train starts the workers, joins them in a process group and, when one dies, starts all of them again; what they go
on from is our own newest checkpoint. The driver only waits. A mistake of the user's, or a run that halts itself, ends a
worker normally and is raised again by the driver: starting such a worker again would come to the same.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import JobStopped, Terminated, UserError

if TYPE_CHECKING:
    from pipelines.train.loop import Outcome
    from pipelines.train.run import Run

_STOP_WITHIN_S = 120.0


@dataclass(frozen=True)
class _Refusal:
    """A user error on its way from a worker to the driver."""

    message: str
    stopped: bool


def train_on_ray(run: Run) -> Outcome:
    """Train with the workers that the configuration asks for, until the end or until this process is asked to stop.

    Ray must be running. When this process gets SIGTERM or Ctrl-C, the workers write a checkpoint first.

    Raises:
        UserError: what a worker could not use.
        JobStopped: training halted, cannot write, or its workers died too often.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    workers, workdir = run.config.workers, Path(run.config.workdir).resolve()
    # Workers that died go on waiting for it, in the actor's eyes.
    waiting = workers.count * (workers.restarts + 1)
    # On the driver's node: were it lost with another one, all workers would take that for a call to stop.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    bell = ray.remote(num_cpus=0)(_Bell).options(max_concurrency=waiting + 2, scheduling_strategy=here).remote()
    signal.signal(signal.SIGTERM, _terminate)  # Ray replaced the command line's handler when it started
    trainer = _trainer_class()(
        train_worker,
        train_loop_config={"run": run, "bell": bell},
        torch_config=_torch_config(workers.gpus > 0),
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
    result = _fit(trainer.fit, lambda: ray.get(bell.ring.remote()))  # type: ignore[attr-defined]
    told = result.return_value
    if isinstance(told, _Refusal):
        raise (JobStopped if told.stopped else UserError)(told.message)
    return told


def _fit(fit: Callable[[], Any], ask_to_stop: Callable[[], Any]) -> Any:
    """Call ``fit`` in a thread, so that a signal reaches this one, which then asks the workers to stop."""
    from ray.train import TrainingFailedError

    outcome: dict[str, Any] = {}
    ended = threading.Event()  # a join that a signal interrupts takes the thread for dead (Python 3.11)

    def call() -> None:
        try:
            outcome["result"] = fit()
        except BaseException as error:
            outcome["error"] = error
        finally:
            ended.set()

    threading.Thread(target=call, name="trainer", daemon=True).start()
    try:
        while not ended.wait(0.5):
            pass
    except BaseException:
        ask_to_stop()
        ended.wait(_STOP_WITHIN_S)
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
    from pipelines.train.preemption import Preempted, asked
    from pipelines.train.world import World

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    run: Run = arguments["run"]
    rung = arguments["bell"].wait.remote()

    def notice() -> str:
        if asked():
            return "preempted"
        return "stop" if ray.wait([rung], timeout=0)[0] else ""

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


class _Bell:
    """An actor by which the driver tells the workers to stop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> bool:
        return await self._rung.wait()


def _terminate(_: int, __: object) -> None:
    raise Terminated


def _trainer_class() -> type[Any]:
    """Ray's trainer; without a dashboard, also without the actor that asks it every second whether the run lives."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LocalTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]

    return TorchTrainer if "RAY_ADDRESS" in os.environ else LocalTrainer


def _torch_config(gpus: bool) -> Any:
    """Ray's process group, plus a handler for SIGTERM on the main thread of every worker."""
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            from pipelines.train.preemption import listen

            super().on_start(worker_group, backend_config)
            worker_group.execute(listen)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend="nccl" if gpus else "gloo")
