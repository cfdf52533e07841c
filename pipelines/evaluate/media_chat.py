"""A checkpoint that answers conversations about media: what the adapters to other evaluation suites are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image

from pipelines.engine import Engine, EngineConfig, EngineFull, Generation, SamplingParams, VisualCache
from pipelines.errors import UserError
from pipelines.video_models import Prompt, WatchedMedia, load_video_model

if TYPE_CHECKING:
    from pipelines.video_models.base import Kind

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_LONGEST_PAUSE_S = 0.2


@dataclass(frozen=True)
class Medium:
    """A video or image of a conversation.

    Attributes:
        path: a local file.
        kind: video or image.
        start_s, end_s: bounds of the part of a video that is shown.
    """

    path: str
    kind: Kind
    start_s: float | None = None
    end_s: float | None = None


Turn = tuple[str, Sequence["str | Medium"]]
"""Role, and its texts and media in order."""


class MediaChat:
    """Close it when done, or use it in a ``with`` statement.

    Args:
        checkpoint: folder of a model of any family.
        device, dtype: where and in what it runs; dtype "auto" is the checkpoint's own.
        fps, num_frames, max_frames: how videos are sampled; the model's own rule by default.
        slots: conversations answered at the same time.
        cache_bytes: watched media that are kept, so that a video is watched once for all its questions.
        overrides: fields of the model's configuration.

    Raises:
        UserError: see :func:`pipelines.video_models.load_video_model`.
    """

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: str = "auto",
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        max_frames: int | None = None,
        slots: int = 8,
        cache_bytes: int = 2 << 30,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = None if dtype == "auto" else getattr(torch, dtype, None)
        if dtype != "auto" and not isinstance(chosen, torch.dtype):
            raise UserError(f"dtype={dtype!r}: give auto, float32, bfloat16 or float16")
        self.model = load_video_model(checkpoint, device, chosen, None, overrides)
        given = {"fps": fps, "num_frames": num_frames, "max_frames": max_frames}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if fps is not None or num_frames is not None:
            changes = {"fps": fps, "num_frames": num_frames, **changes}
        self._sampling = dataclasses.replace(self.model.sampling, **changes)
        self._engine = Engine(self.model, EngineConfig(slots=slots))
        self._watched = VisualCache(cache_bytes, device=device)
        self._folder = tempfile.TemporaryDirectory(prefix="longvu-media-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine and drop the pictures that were handed over."""
        self._engine.close()
        self._folder.cleanup()

    def medium(self, source: object, kind: Kind | None = None) -> Medium:
        """A file or a picture as a medium.

        Args:
            source: a path, with or without ``file://``, or a PIL image.
            kind: by default an image for a picture or the name of one, else a video.

        Raises:
            UserError: neither a file that is there nor a picture.
        """
        if isinstance(source, Image.Image):
            return Medium(self._stored(source), "image")
        path = Path(str(source).removeprefix("file://")) if isinstance(source, str | Path) else None
        if path is None or not path.is_file():
            raise UserError(f"{source!r}: neither a file nor a picture; give a local path or a PIL image")
        return Medium(str(path), kind or ("image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"))

    def replies(self, conversations: Sequence[Sequence[Turn]], samplings: Sequence[SamplingParams]) -> list[str]:
        """Answer conversations, many at a time; in order.

        Raises:
            VideoError: a file cannot be decoded.
            PromptTooLong: a text leaves no room for the video.
        """
        texts = [""] * len(conversations)
        going: deque[tuple[int, Generation]] = deque()
        for place, (turns, sampling) in enumerate(zip(conversations, samplings, strict=True)):
            prompt = self.prompt(turns)
            while True:
                try:
                    going.append((place, self._engine.submit(prompt, sampling)))
                    break
                except EngineFull as full:
                    if going:
                        done, generation = going.popleft()
                        texts[done] = generation.result().text
                    else:
                        time.sleep(min(full.retry_after_s, _LONGEST_PAUSE_S))
        for place, generation in going:
            texts[place] = generation.result().text
        return texts

    def likelihood(self, turns: Sequence[Turn], continuation: str) -> tuple[float, bool]:
        """The log probability of a continuation, and whether greedy decoding would write it."""
        prompt = self.prompt(turns)
        score = self._engine.score(prompt, [continuation])[0]
        length = len(self.model.tokenizer(continuation, add_special_tokens=False).input_ids)
        written = self._engine.submit(prompt, SamplingParams(max_tokens=length)).result().text
        return score, written.strip() == continuation.strip()

    def prompt(self, turns: Sequence[Turn]) -> Prompt:
        """Watch what has not been watched yet, and make the prompt."""
        media = [self._watch(part) for _, parts in turns for part in parts if isinstance(part, Medium)]
        messages = [
            {
                "role": role,
                "content": [{"type": "text", "text": p} if isinstance(p, str) else {"type": p.kind} for p in parts],
            }
            for role, parts in turns
        ]
        return self.model.prompt(messages, media)

    def _watch(self, medium: Medium) -> WatchedMedia:
        sampling = dataclasses.replace(self._sampling, start_s=medium.start_s, end_s=medium.end_s)
        state = Path(medium.path).stat()
        key = f"{medium} {sampling} {state.st_size} {state.st_mtime_ns}"
        watch = self.model.watch
        return self._watched.get_or_watch(
            key, lambda: watch(medium.path, sampling if medium.kind == "video" else None, kind=medium.kind)
        )

    def _stored(self, image: Image.Image) -> str:
        """A picture as a lossless file, named by its content."""
        picture = image.convert("RGB")
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
        path = Path(self._folder.name) / f"{digest}.png"
        if not path.exists():
            picture.save(path)
        return str(path)
