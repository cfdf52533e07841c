"""Ray's trainer with few processes, because a run that was killed waits for each of them to start.

Ray Train starts actors for its controller, for data sets, for asking for more machines, for machines about to be taken
away and for watching that the run lives: with two cores, 15 of the 25 seconds of a start. The controller dies with its
driver anyway, so it runs there; the trainer is given no data sets; the rest is for clusters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.result import Result

_LOOK_EVERY_S = 0.5


class ListeningConfig(TorchConfig):
    """Ray's process group, plus a handler for SIGTERM on the main thread of every worker."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ListeningBackend


class _ListeningBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        from pipelines.train.preemption import listen

        super().on_start(worker_group, backend_config)
        worker_group.execute(listen)


class DriverTrainer(TorchTrainer):
    """A trainer whose controller runs in the process that calls ``fit``. What its workers hold is the driver's, so Ray
    frees it when the driver dies. ``ray.train.get_all_reported_checkpoints``, which asks the controller, is not there.
    """

    _controller: _Controller | None = None

    def on_workers(self, function: Callable[[], None]) -> int:
        """Run a function on the main thread of every worker there is, and wait for none of them; how many there are."""
        group = self._controller and self._controller.get_worker_group()
        workers = []
        with contextlib.suppress(ValueError):  # it has just ended, or not yet begun
            workers = group.get_workers() if group else []
            for worker in workers:
                worker.execute_async(function)
        return len(workers)

    def _create_default_callbacks(self) -> list[Any]:
        not_needed = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if not isinstance(one, not_needed)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        async def run() -> Result:
            self._controller = self._make_controller(**arguments)
            await self._controller.run()
            return self._controller.get_result()

        return asyncio.run(run())

    def _make_controller(self, **arguments: Any) -> _Controller:
        return _Controller(**arguments)


class LocalTrainer(DriverTrainer):
    """The same on a Ray of our own: one machine, which nobody adds to and nobody takes away, where processes wait that
    have imported what workers need. Ray has an actor of its own in each group, for ``ray.train.report``, which is not
    called here: it asks for a place that does not exist, so that no process starts for it.
    """

    def _make_controller(self, **arguments: Any) -> _Controller:
        options = SynchronizationActor._default_options  # type: ignore[attr-defined]  # an actor class
        options["resources"] = {"nowhere": 1}
        return _LocalController(**arguments | {"scaling_policy": _AsIs(arguments["scaling_policy"].scaling_config)})


class _AsIs(FixedScalingPolicy):
    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask no autoscaler."""

    def _maybe_send_resource_request(self) -> None:
        """Ask no autoscaler."""


class _WorkerGroup(WorkerGroup):
    def _init_train_context_on_workers(self, workers: Any, sync_actor: Any, train_context_args: Any) -> None:
        """The library's, but for a controller that is no actor."""
        started = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ]
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


class _LocalController(_Controller):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Not by the library's variables: they would be sent to workers, and processes that wait have none.
        self._health_check_interval_s = _LOOK_EVERY_S
        self._worker_group_callbacks_to_propagate = [
            one for one in self._worker_group_callbacks_to_propagate if not isinstance(one, PreemptionCallback)
        ]
