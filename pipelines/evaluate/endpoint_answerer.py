"""Any OpenAI-compatible endpoint as an answerer: ours, another server's of open models, or a closed model's."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longvu_model.video import FrameSampling
from longvu_model.video.supervised import supervised_blocks
from pipelines.evaluate.answerers import Ask, Refused, Reply, Seen
from pipelines.evaluate.config import MediaFormConfig, RequestsConfig
from pipelines.evaluate.endpoint import Endpoint
from pipelines.evaluate.tasks.media import Shown

_BLOCK_FRAMES = 16


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked."""

    url: str
    model: str
    requests: RequestsConfig
    form: MediaFormConfig
    system: str
    reply_prefix: str
    max_new_tokens: int
    temperature: float
    top_p: float
    deadline_s: float


class EndpointAnswerer:
    """See :class:`pipelines.evaluate.answerers.Answerer`."""

    count_tokens = None

    def __init__(self, settings: EndpointSettings):
        self._settings = settings
        self._endpoint = Endpoint(settings.url, settings.model, settings.requests)
        self._threads = ThreadPoolExecutor(settings.requests.concurrency)

    def look(self, shown: Shown, sha256: str | None) -> Seen:
        parts: list[dict[str, Any]] = []
        extra: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        damage = None
        if shown.video is not None and self._settings.form.form == "video_url":
            parts.append({"type": "video_url", "video_url": {"url": shown.video.resolve().as_uri()}})
            extra = {"media_io_kwargs": {"video": media_io(shown.sampling)}}
        elif shown.video is not None:
            images, damage = self._frames(shown.video, shown.sampling)
            parts += images
            facts["sampled_frames"] = len(images)
        if shown.still is not None:
            parts += self._frames(shown.still, FrameSampling(num_frames=1))[0]
        return Seen((parts, extra), facts, damage)

    def answer(self, seen: Seen, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply | Refused]]:
        parts, extra = seen.held
        going = {self._threads.submit(self._ask, parts, extra, ask): position for position, ask in enumerate(asks)}
        try:
            for done in as_completed(going):
                try:
                    yield going[done], done.result()
                except Refused as refused:
                    yield going[done], refused
        finally:
            for future in going:
                future.cancel()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._endpoint.close()

    def _ask(self, parts: list[dict[str, Any]], extra: dict[str, Any], ask: Ask) -> Reply:
        settings = self._settings
        messages: list[dict[str, Any]] = []
        if settings.system:
            messages.append({"role": "system", "content": settings.system})
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": ask.text}]})
        body = dict(extra)
        if settings.reply_prefix:
            messages.append({"role": "assistant", "content": settings.reply_prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        done = self._endpoint.complete(
            messages,
            max_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=ask.seed,
            extra_body=body or None,
        )
        facts = {"finish_reason": done.finish_reason, "usage": done.usage, "served_model": done.model}
        return Reply(done.text.removeprefix(settings.reply_prefix), facts=facts)

    def _frames(self, file: Path, sampling: FrameSampling) -> tuple[list[dict[str, Any]], str | None]:
        stream = supervised_blocks(file, sampling, deadline_s=self._settings.deadline_s, block_frames=_BLOCK_FRAMES)
        images = [self._image(frame) for block in stream for frame in block.frames]
        return images, stream.summary.damage

    def _image(self, frame_HWC: Any) -> dict[str, Any]:
        picture, form = Image.fromarray(frame_HWC), self._settings.form
        picture.thumbnail((form.edge_px, form.edge_px), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=form.quality)
        data = base64.b64encode(file.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def media_io(sampling: FrameSampling) -> dict[str, Any]:
    """A frame policy as servers take it in ``media_io_kwargs``: rounding and thinning are the server's."""
    told = {"fps": sampling.fps, "num_frames": sampling.num_frames, "max_frames": sampling.max_frames}
    told |= {"start_s": sampling.start_s, "end_s": sampling.end_s}
    return {name: value for name, value in told.items() if value is not None}
