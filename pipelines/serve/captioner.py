"""Captions of a video for a request: fetched and checked as any medium, decoded in the supervised child, and told scene
by scene while it is decoded. The model's words come from the engine, beside everybody's answers.

Memory does not grow with the video. When the request is cancelled, decoding ends at the next frame, and what is being
said within one step of the engine.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeGuard

from longvu_model.video import FrameSampling, VideoError
from longvu_model.video.supervised import supervised_blocks
from pipelines.captions import QUESTION, Caption, CaptionSettings, TimedFrame, scene_captions
from pipelines.engine import Engine
from pipelines.serve.caption_protocol import CaptionRequest
from pipelines.serve.guard import MediaPolicy
from pipelines.serve.media import FetchedMedia, check_media, check_sampling, refusal_of
from pipelines.serve.questions import Started
from pipelines.serve.refusals import busy
from pipelines.serve.replies import VideoCaption
from pipelines.serve.sight import Sight, finished_in
from pipelines.video_models import Prompt, VideoModel
from pipelines.video_models.videollamb import VideoLLaMB

_PARAM = "url"
_RETRY_S = 10.0


def can_caption(model: VideoModel) -> TypeGuard[VideoLLaMB]:
    """Whether a model captions streams in flat memory; under published semantics it would hold all frames."""
    return isinstance(model, VideoLLaMB) and not model.config.rules.stream_recomputes


class _ClientLeft(Exception):
    """Nobody reads the captions any more."""


class Captioner:
    """Captions videos, a few at a time.

    Args:
        model: of which :func:`can_caption` holds.
        engine: of that model.
        sight: opens media.
        policy: limits on decoding.
        most: videos at a time.
    """

    def __init__(self, model: VideoLLaMB, engine: Engine, sight: Sight, policy: MediaPolicy, most: int):
        self._model, self._engine, self._sight, self._policy = model, engine, sight, policy
        self._most, self._running = most, 0
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="caption")

    async def captions(self, request: CaptionRequest) -> AsyncGenerator[Started | VideoCaption, None]:
        """Started once the video can be used, then its captions.

        Raises:
            Refusal: enough videos are being captioned, or there is no such one.
            MediaRefused: it may not be fetched, or cannot be decoded.
            PromptTooLong: the question leaves no room.
            EngineFull: too many others wait for an answer.
        """
        if self._running >= self._most:
            raise busy(_RETRY_S, f"{self._running} videos are being captioned")
        self._running += 1
        try:
            async with self._sight.opened(request.url, "video", _PARAM) as file:
                try:
                    async with contextlib.aclosing(self._captions_of(file, request)) as events:
                        async for event in events:
                            yield event
                except VideoError as error:
                    unusable = refusal_of(error, file.path)
                    unusable.param = _PARAM
                    raise unusable from None
        finally:
            self._running -= 1

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _captions_of(
        self, file: FetchedMedia, request: CaptionRequest
    ) -> AsyncGenerator[Started | VideoCaption, None]:
        left = threading.Event()
        sampling = FrameSampling(fps=request.fps)
        await finished_in(
            self._threads, lambda: check_sampling(check_media(file.path, self._policy), sampling, self._policy)
        )
        yield Started()
        told = self._told(file, request, sampling, left)
        try:
            while (caption := await finished_in(self._threads, lambda: next(told, None), left.set)) is not None:
                yield VideoCaption(model=request.model, **vars(caption))
        finally:
            left.set()
            await finished_in(self._threads, told.close)

    def _told(
        self, file: FetchedMedia, request: CaptionRequest, sampling: FrameSampling, left: threading.Event
    ) -> Generator[Caption, None, None]:
        """In a thread; ends early when the client has left."""
        settings = CaptionSettings(
            question=request.question or QUESTION,
            fps=request.fps,
            shortest_s=request.shortest_s,
            longest_s=request.longest_s,
            max_new_tokens=request.max_tokens,
        )

        def say(prompt: Prompt) -> str:
            generation = self._engine.submit(prompt, settings.sampling)
            for _ in generation:
                if left.is_set():
                    generation.cancel()
            return generation.result().text

        return scene_captions(self._model, self._frames(file, sampling, left), settings, say)

    def _frames(self, file: FetchedMedia, sampling: FrameSampling, left: threading.Event) -> Iterator[TimedFrame]:
        policy = self._policy
        stream = supervised_blocks(
            file.path,
            sampling,
            deadline_s=policy.decode_timeout_s,
            max_pixels=policy.max_pixels,
            memory_bytes=policy.decode_memory_bytes,
            block_frames=1,
        )
        for block in stream:
            if left.is_set():
                raise _ClientLeft
            yield from zip(block.pts_s.tolist(), block.frames, strict=True)
