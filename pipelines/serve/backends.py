"""The replicas of one model, as the HTTP side reaches them through Ray Serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import cast

from prometheus_client.metrics_core import Metric
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from pipelines.serve.questions import CaptionOrder, Event, ModelInfo, Question, ReplicaStatus, affinity_key
from pipelines.serve.refusals import unavailable

logger = logging.getLogger("ray.serve")

_EVERY_S = 1.0
_TIMEOUT_S = 5.0
# What Ray raises when the other side is gone, or cannot be reached for now.
_GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError, BackPressureError)


class RayModel:
    """See :class:`pipelines.serve.service.Backend`.

    Args:
        name: of the model.
        handle: of its deployment.
    """

    def __init__(self, name: str, handle: DeploymentHandle):
        self._name, self._handle = name, handle
        self._replicas: list[ReplicaStatus] = []
        self.info: ModelInfo | None = None

    @property
    def num_replicas(self) -> int:
        return len(self._replicas)

    @property
    def capacity_tokens(self) -> int:
        return sum(replica.capacity_tokens for replica in self._replicas)

    @property
    def metrics(self) -> list[Metric]:
        """Of all replicas, about a second old."""
        return [metric for replica in self._replicas for metric in replica.metrics]

    async def watch(self) -> None:
        """Ask every replica how it is, about once a second; never returns."""
        while True:
            try:
                await self._look()
            except DeploymentUnavailableError:
                self._replicas = []
            except Exception:  # whatever it is, the next look may succeed, and requests say what is wrong
                logger.exception("the replicas of %s did not answer", self._name)
            await asyncio.sleep(_EVERY_S)

    async def ask(self, question: Question | CaptionOrder) -> AsyncGenerator[Event, None]:
        """The events of the replica that has the question's video, or of one that soon will."""
        handle = self._handle.options(stream=True, session_id=affinity_key(question) or "")
        method = handle.captions if isinstance(question, CaptionOrder) else handle.answer
        response = cast("DeploymentResponseGenerator[list[Event]]", method.remote(question))
        ended = False
        try:
            async for events in response:
                for event in events:
                    yield event
            ended = True
        except _GONE:
            ended = True
            yield unavailable(self._name)
        except RayTaskError as error:
            ended = True
            if not isinstance(error.cause, _GONE):
                raise
            yield unavailable(self._name)
        finally:
            if not ended:
                response.cancel()

    async def _look(self) -> None:
        told = await self._handle.broadcast("status").results_async(timeout_s=_TIMEOUT_S, return_exceptions=True)
        self._replicas = [one for one in told if isinstance(one, ReplicaStatus)]
        if self._replicas:
            self.info = self._replicas[0].info
