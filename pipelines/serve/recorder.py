"""A sample of answers on its way to MLflow: held in a short buffer, sent in the background, dropped when it is full."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import Counter

from pipelines.serve.completions import Answer
from pipelines.serve.config import TrackingSettings
from pipelines.serve.protocol import ChatRequest, TextPart
from pipelines.tracking import ServedAnswer

_EVERY_S = 1.0


class Recorder:
    """Takes answers without waiting.

    Args:
        settings: which share, and whether with texts.
        dropped: counts what found the buffer full.
        checkpoints: their URIs by model name.
        send: takes a batch to whoever writes it.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        dropped: Counter,
        checkpoints: Mapping[str, str],
        send: Callable[[list[ServedAnswer]], Awaitable[Any]] | None = None,
    ):
        self.sample = settings.sample if send else 0.0
        self._texts, self._send, self._dropped, self._checkpoints = settings.texts, send, dropped, checkpoints
        self._held: deque[ServedAnswer] = deque()
        self._most = settings.buffer

    def record(self, request: ChatRequest, answer: Answer, took_s: float) -> None:
        """Hold an answer until the next batch leaves."""
        if len(self._held) >= self._most:
            self._dropped.inc()
            return
        assert answer.finished is not None
        usage, vendor = answer.finished.usage, answer.finished.vendor
        facts = {
            "regime": vendor.regime,
            "visual_tokens": vendor.visual_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "finish_reason": answer.finished.finish_reason,
            "visual_cache": vendor.cache.visual,
            "prefix_cache": vendor.cache.prefix,
            "kept_frames": [len(medium.kept_times_s) for medium in vendor.media],
            "sampled_frames": [medium.num_sampled for medium in vendor.media],
        }
        self._held.append(
            ServedAnswer(
                model=request.model,
                checkpoint=self._checkpoints[request.model],
                digest=vendor.model_digest,
                ended_s=time.time(),
                took_s=took_s,
                stages_s={stage: vendor.seconds[stage] for stage in ("media", "prompt", "answer")},
                facts=facts,
                question=_texts(request) if self._texts else None,
                answer="".join(answer.text) if self._texts else None,
            )
        )

    async def run(self) -> None:
        """Send what is held about once a second; never returns."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Send what is held now. What cannot be sent is dropped and counted."""
        if not self._held or self._send is None:
            return
        batch = list(self._held)
        self._held.clear()
        try:
            await self._send(batch)
        except Exception:  # the writer is another process, which may fail in any way and must not stop this one
            self._dropped.inc(len(batch))


def _texts(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation's texts, without media: their URLs may hold credentials."""
    said = []
    for message in request.messages:
        content = message.content
        texts = [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, TextPart)]
        said.append({"role": message.role, "content": "\n".join(texts)})
    return said
