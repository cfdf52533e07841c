"""The endpoint as a Ray Serve application: HTTP processes, replicas of each model, one writer for MLflow.

    client -> Ray Serve's proxy -> Endpoint (parses, admits, streams) -> the model's replica that has the video

Requests about one video reach one replica: its name is the session of Ray Serve's consistent-hash router, so replicas
may come and go and few videos move. A request whose replica dies is answered 503 and is not repeated here: it may be
what killed it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from pipelines.provenance import checkpoint_uri
from pipelines.serve.app import build_app
from pipelines.serve.auth import load_keys
from pipelines.serve.backends import RayModel
from pipelines.serve.config import ModelSettings, ServeConfig
from pipelines.serve.intake import Intake
from pipelines.serve.metrics import EndpointMetrics, collected, page
from pipelines.serve.questions import CaptionOrder, Event, Question, ReplicaStatus
from pipelines.serve.recorder import Recorder
from pipelines.serve.service import Service
from pipelines.serve.videos import open_uploads
from pipelines.store import FeatureStore
from pipelines.tracking import DatasetInput, RunIdentity, ServedAnswer, TrackedRun

ENDPOINT = "Endpoint"
RECORDS = "Records"
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# What a request may hold beyond the tokens that admission counts is bounded by the HTTP side.
_MANY = 10_000
ONE_LOOP = {
    # The HTTP side never blocks, and hand-overs between threads are most of what refusing a request takes: with these
    # 12 ms instead of 22 (Ray 2.60). Model replicas keep a thread for what Ray asks of them.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
_HEALTH: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 30.0,
    # A line per request would cost more than refusing one does.
    "logging_config": {"enable_access_log": False},
}
_LOAD_EVERY_S = 1.0
_SWEEP_EVERY_S = 60.0
_SCRAPE_TIMEOUT_S = 5.0
_ANNOUNCE_EVERY_S = 0.2


def application(config: ServeConfig) -> Application:
    """The application, for ``serve.run``; ``path`` of every model is a checkpoint folder that replicas see."""
    models = {settings.name: _model_deployment(config, settings) for settings in config.models}
    records = serve.deployment(name=RECORDS, ray_actor_options={"num_cpus": 0}, **_HEALTH)(Records)
    endpoint = serve.deployment(
        name=ENDPOINT,
        num_replicas=config.endpoint.replicas,
        max_ongoing_requests=config.endpoint.max_ongoing_requests,
        graceful_shutdown_timeout_s=config.endpoint.drain_s,
        ray_actor_options={"num_cpus": config.endpoint.num_cpus, "runtime_env": {"env_vars": ONE_LOOP}},
        max_surge_percent=100,
        **_HEALTH,
    )(Endpoint)
    return endpoint.bind(config, models, records.bind(config) if config.tracking.enabled else None)


def _model_deployment(config: ServeConfig, settings: ModelSettings) -> Application:
    scaling: dict[str, Any] = {"num_replicas": settings.min_replicas}
    if settings.max_replicas > settings.min_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": settings.min_replicas,
                "max_replicas": settings.max_replicas,
                "target_ongoing_requests": settings.target_ongoing_requests,
                "upscale_delay_s": settings.upscale_delay_s,
                "downscale_delay_s": settings.downscale_delay_s,
                "metrics_interval_s": _LOAD_EVERY_S,
                "look_back_period_s": max(settings.upscale_delay_s, 2 * _LOAD_EVERY_S),
            }
        }
    deployment = serve.deployment(
        name=f"Model:{settings.name}",
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=config.endpoint.drain_s,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),  # type: ignore[arg-type]
        max_surge_percent=settings.surge_percent,
        **scaling,
        **_HEALTH,
    )(Model)
    return deployment.bind(config, settings.name)


class Model:
    """A :class:`ModelReplica` under Ray Serve."""

    def __init__(self, config: ServeConfig, name: str):
        # Here, because the HTTP side needs neither torch nor a model.
        from pipelines.serve.replica import ModelReplica

        self._replica = ModelReplica(config, name)
        self._process = process_name()

    async def answer(self, question: Question) -> AsyncIterator[list[Event]]:
        async with contextlib.aclosing(self._replica.answer(question)) as events:
            async for some in events:
                yield some

    async def captions(self, order: CaptionOrder) -> AsyncIterator[list[Event]]:
        async with contextlib.aclosing(self._replica.captions(order)) as events:
            async for some in events:
                yield some

    async def status(self) -> ReplicaStatus:
        return self._replica.status(self._process)

    async def check_health(self) -> None:
        self._replica.check_health()

    def __del__(self) -> None:
        if hasattr(self, "_replica"):
            self._replica.close()


@serve.ingress()
class Endpoint:
    """The HTTP side.

    Args:
        config: of the endpoint.
        models: handles by model name.
        records: handle of :class:`Records`, None without tracking.
    """

    def __init__(self, config: ServeConfig, models: Mapping[str, DeploymentHandle], records: DeploymentHandle | None):
        self._config = config
        self._metrics = EndpointMetrics()
        self._models = {name: RayModel(name, handle) for name, handle in models.items()}
        send = (lambda batch: records.write.remote(batch)) if records else None
        checkpoints = {model.name: checkpoint_uri(Path(model.path)) for model in config.models}
        self._recorder = Recorder(config.tracking, self._metrics.dropped_traces, checkpoints, send)
        self._records, self._checkpoints = records, checkpoints
        self._uploads = open_uploads(config)
        self._keys = load_keys(config.auth)
        self._process = process_name()
        self._own = serve.get_replica_context()

    def __serve_build_asgi_app__(self) -> Intake:
        service = Service(self._models, self._metrics, self._recorder)
        app = build_app(self._config, service, self._uploads, self._page)
        app.router.lifespan_context = self._lifespan
        if self._config.endpoint.ui:
            from pipelines.serve.ui import mount

            mount(app, self._config)
        return Intake(app, self._config, self._keys)

    async def measured(self) -> list[Metric]:
        """This process's metrics, for whichever process is asked for ``/metrics``."""
        return collected(self._metrics.registry, self._process)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        loops = [*(model.watch() for model in self._models.values()), self._recorder.run(), self._sweep()]
        loops += [self._announce(self._records)] if self._records else []
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self._recorder.flush()

    async def _sweep(self) -> None:
        while True:
            await asyncio.to_thread(self._uploads.sweep)
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _announce(self, records: DeploymentHandle) -> None:
        """Make each model an input of the run in MLflow, as soon as a replica has told what it is."""
        for name, model in self._models.items():
            while model.info is None:
                await asyncio.sleep(_ANNOUNCE_EVERY_S)
            await records.serving.remote(name, self._checkpoints[name], model.info.digest)

    async def _page(self) -> bytes:
        handle = serve.get_deployment_handle(self._own.deployment, self._own.app_name)
        measured = await handle.broadcast("measured").results_async(timeout_s=_SCRAPE_TIMEOUT_S, return_exceptions=True)
        endpoints = [metric for one in measured if isinstance(one, list) for metric in one]
        return page([*endpoints, *(metric for model in self._models.values() for metric in model.metrics)])


class Records:
    """Writes what happens to MLflow, in a process of its own, so that nobody waits for it."""

    def __init__(self, config: ServeConfig):
        names, digest = "+".join(model.name for model in config.models), config.digest()
        identity = RunIdentity("serve", f"serve {config.name}: {names} {digest[:6]}", digest)
        self._run = TrackedRun(config.workdir, identity)
        self._run.params(config.changed(auth={}).flat())
        endpoint = f"http://{config.host}:{config.port}/v1"
        self._run.tags({"longvu.endpoint": endpoint})
        self._run.describe(f"Serves {names} at `{endpoint}`. A sample of its answers is under *Traces*.")
        for model in config.models:
            if model.store:
                store = FeatureStore.open(model.store)
                name, digest = store.manifest.name, store.manifest.config_digest
                self._run.inputs([DatasetInput("store", name, digest, store.uri)])
                self._run.link_output("extract", store.uri)
        self._known: set[tuple[str, str]] = set()

    def serving(self, model: str, checkpoint: str, digest: str) -> None:
        """Make a model known; arguments as in :class:`pipelines.tracking.ServedAnswer`."""
        if (model, digest) not in self._known:
            self._run.uses_model(model, checkpoint, digest)
            self._known.add((model, digest))

    def write(self, answers: list[ServedAnswer]) -> None:
        """Leave traces, and make their models known first."""
        for one in answers:
            self.serving(one.model, one.checkpoint, one.digest)
        self._run.answers(answers)

    def __del__(self) -> None:
        if hasattr(self, "_run"):
            self._run.__exit__(None, None, None)


def process_name() -> str:
    """Of the replica that this is."""
    replica = serve.get_replica_context().replica_id
    return f"{replica.deployment_id.name}#{replica.unique_id}"
