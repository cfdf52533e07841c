"""A checkpoint of any family, answering through the engine: many questions at a time, of several videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from pipelines.engine import Engine, EngineConfig, EngineFull, Generation, SamplingParams
from pipelines.evaluate.answerers import Ask, LocalSettings, Refused, Reply, Seen
from pipelines.evaluate.tasks.media import Shown
from pipelines.store import FeatureStore, StoreError
from pipelines.video_models import DecodeLimits, Prompt, PromptTooLong, VideoModel, WatchedMedia, load_video_model

_LONGEST_PAUSE_S = 0.2


class LocalAnswerer:
    """See :class:`pipelines.evaluate.answerers.Answerer`."""

    def __init__(self, settings: LocalSettings):
        self._settings = settings
        dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
        self.model: VideoModel = load_video_model(
            settings.folder, settings.device, dtype, settings.quantization, settings.overrides
        )
        self._engine = Engine(self.model, EngineConfig(slots=settings.slots))
        self._store = FeatureStore.open(settings.store) if settings.store else None
        self._threads = ThreadPoolExecutor(settings.slots)

    @property
    def count_tokens(self) -> Callable[[str], int]:
        return lambda text: len(self.model.tokenizer(text, add_special_tokens=False).input_ids)

    def look(self, shown: Shown, sha256: str | None) -> Seen:
        media: list[WatchedMedia] = []
        if shown.video is not None:
            stored = self._recalled(shown, sha256)
            media.append(stored or self._watched(shown.video, shown))
        if shown.still is not None:
            media.append(self._watched(shown.still, shown, kind="image"))
        facts: dict[str, Any] = {"sampled_frames": sum(item.num_sampled for item in media)}
        for step in {step for item in media for step in item.seconds}:
            facts[f"{step}_s"] = sum(item.seconds.get(step, 0.0) for item in media)
        damage = next((item.damage for item in media if item.damage), None)
        return Seen(media, facts, damage)

    def answer(self, seen: Seen, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply | Refused]]:
        if self._settings.mode == "generate":
            yield from self._generate(seen.held, asks)
        else:
            going = {self._threads.submit(self._weigh, seen.held, ask): place for place, ask in enumerate(asks)}
            yield from ((going[done], done.result()) for done in as_completed(going))

    def close(self) -> None:
        self._engine.close()
        self._threads.shutdown()

    def _generate(self, media: list[WatchedMedia], asks: Sequence[Ask]) -> Iterator[tuple[int, Reply | Refused]]:
        settings = self._settings
        going: list[tuple[int, dict[str, Any], Generation]] = []
        for position, ask in enumerate(asks):
            sampling = SamplingParams(settings.max_new_tokens, settings.temperature, settings.top_p, ask.seed)
            try:
                prompt = self._prompt(media, ask)
                while (generation := self._submitted(prompt, sampling, wait=not going)) is None:
                    yield _finished(*going.pop(0))
                going.append((position, _facts(prompt), generation))
            except PromptTooLong as error:
                yield position, Refused("PromptTooLong", str(error))
        for item in going:
            yield _finished(*item)

    def _weigh(self, media: list[WatchedMedia], ask: Ask) -> Reply | Refused:
        """How likely each option is."""
        try:
            prompt = self._prompt(media, ask)
            while True:
                try:
                    scores = self._engine.score(prompt, ask.options)
                    break
                except EngineFull as full:
                    time.sleep(min(full.retry_after_s, _LONGEST_PAUSE_S))
        except PromptTooLong as error:
            return Refused("PromptTooLong", str(error))
        return Reply(option_scores=self._per_token(scores, ask.options), facts=_facts(prompt))

    def _submitted(self, prompt: Prompt, sampling: SamplingParams, *, wait: bool) -> Generation | None:
        """None while the engine is full; with ``wait``, as soon as it is not."""
        while True:
            try:
                return self._engine.submit(prompt, sampling)
            except EngineFull as full:
                if not wait:
                    return None
                time.sleep(min(full.retry_after_s, _LONGEST_PAUSE_S))

    def _prompt(self, media: list[WatchedMedia], ask: Ask) -> Prompt:
        return self.model.prompt(chat_messages(self._settings, [item.kind for item in media], ask.text), media)

    def _recalled(self, shown: Shown, sha256: str | None) -> WatchedMedia | None:
        """From the store, unless it lacks the video or only a part of the video is shown."""
        bounds = shown.sampling.start_s, shown.sampling.end_s
        if self._store is None or sha256 is None or bounds != (None, None):
            return None
        if str(shown.sampling) != str(self._store.manifest.config["sampling"]):
            return None
        try:
            self._store.row(sha256)
        except StoreError:
            return None
        return self.model.recall(self._store, sha256)

    def _watched(self, file: Path, shown: Shown, kind: Any = None) -> WatchedMedia:
        limits = DecodeLimits(deadline_s=self._settings.deadline_s)
        try:
            return self.model.watch(file, shown.sampling, kind=kind, limits=limits)
        except torch.OutOfMemoryError as error:
            raise Refused("OutOfMemory", f"{file}: {error}") from None

    def _per_token(self, scores: Sequence[float], options: Sequence[str]) -> tuple[float, ...]:
        if self._settings.mode == "label":
            return tuple(scores)
        return tuple(score / max(1, self.count_tokens(text)) for score, text in zip(scores, options, strict=True))


def chat_messages(settings: Any, kinds: Sequence[str], text: str) -> list[dict[str, Any]]:
    """A conversation of one question: the system's words if any, the media, the text, the beginning of the reply."""
    messages: list[dict[str, Any]] = []
    if settings.system:
        messages.append({"role": "system", "content": settings.system})
    messages.append({"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]})
    if settings.reply_prefix:
        messages.append({"role": "assistant", "content": settings.reply_prefix})
    return messages


def _facts(prompt: Prompt) -> dict[str, Any]:
    return {
        "regime": prompt.regime,
        "visual_tokens": prompt.visual_tokens,
        "text_tokens": prompt.text_tokens,
        "kept_frames": sum(map(len, prompt.kept_times_s)),
    }


def _finished(position: int, facts: dict[str, Any], generation: Generation) -> tuple[int, Reply]:
    done = generation.result()
    facts |= {"reply_tokens": done.completion_tokens, "finish_reason": done.finish_reason}
    facts |= {"answer_s": done.seconds["total"], "cached_tokens": done.cached_tokens}
    return position, Reply(done.text, facts=facts)
