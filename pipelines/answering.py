"""One question about one video, from a file or from a feature store: what `longvu ask` does.

A file is decoded and encoded window by window, and of a window only what the model can still use is held, so memory
grows with what is new in a video and not with its length. The result is the same as giving the model all frames at
once. Many questions at a time are the business of evaluation and serving.

Shapes: F sampled frames, K kept ones, P tokens, D channels, T text tokens.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, StoppingCriteriaList

from longvu_model import assembly, official
from longvu_model.frame_selection import WINDOW_FRAMES
from longvu_model.image_processing import tower_pixels
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.prompts import STOP_STRINGS
from longvu_model.sight import Media
from longvu_model.stopping import KeywordStop
from longvu_model.video import FrameSampling, iter_frame_blocks
from longvu_model.watching import FrameWatcher, KeptFrames, too_many_frames, windows
from pipelines import storage
from pipelines.store import FeatureStore, StoreError


@dataclass(frozen=True)
class Watched:
    """A video as the model takes it, with temporal reduction done.

    Attributes:
        media: the kept frames.
        num_sampled: frames sampled before reduction.
        seconds: time per step.
        damage: what is wrong with a file of which only the good prefix was seen; None for a whole one.
    """

    media: Media
    num_sampled: int
    seconds: dict[str, float]
    damage: str | None


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it looked at.

    Attributes:
        text: the answer, without the turn separator.
        num_sampled: frames sampled from the video.
        num_kept: of these, the ones the model saw.
        regime: full, mixed or low, see :mod:`longvu_model.regimes`.
        visual_tokens: tokens that the video cost.
        seconds: time per step.
    """

    text: str
    num_sampled: int
    num_kept: int
    regime: str
    visual_tokens: int
    seconds: dict[str, float]

    def __str__(self) -> str:
        steps = ", ".join(f"{step} {value:.2f} s" for step, value in self.seconds.items())
        return (
            f"{self.num_sampled} frames sampled, {self.num_kept} kept; regime {self.regime}, "
            f"{self.visual_tokens} visual tokens; {steps}"
        )


def load_model(folder: Path, device: torch.device) -> tuple[LongVUForConditionalGeneration, LongVUProcessor]:
    """A checkpoint, in our layout or the published one, with the processor that fits it.

    Raises:
        CheckpointError: tensors are missing, surplus or misshapen.
        OSError: the folder lacks files.
    """
    if official.is_published(folder):
        model = official.load(folder)
        processor = LongVUProcessor.from_config(model.config, AutoTokenizer.from_pretrained(folder))
    else:
        model = LongVUForConditionalGeneration.from_pretrained(folder, dtype="auto")
        processor = LongVUProcessor.from_pretrained(folder)
    model.to(device)  # type: ignore[arg-type]  # transformers 5.23 wraps nn.Module.to without its signature
    return model.eval(), processor


def question_ids(processor: LongVUProcessor, question: str) -> Tensor:
    """Token ids (1, T) of a question about one video, with its slot."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)


@torch.inference_mode()
def watch(
    model: LongVUForConditionalGeneration,
    processor: LongVUProcessor,
    video: str | Path,
    sampling: FrameSampling,
    input_ids: Tensor,
    progress: Callable[[int, int], None] = lambda done, planned: None,
) -> Watched:
    """Decode and encode a video file.

    Args:
        input_ids: (1, T), the question; its length decides whether all frames fit and none need be left out.
        progress: told the number of frames encoded so far and planned in all.

    Raises:
        VideoError: the file cannot be decoded; the subclass names why.
    """
    watcher = FrameWatcher(
        model.model.towers,
        tower_pixels(processor.video_processor),
        model.config.dino_threshold,
        functools.partial(_too_many, model, input_ids),
        model.dtype,
    )
    clock = _Clock()
    with clock("decode"):
        stream = iter_frame_blocks(video, sampling, block_frames=WINDOW_FRAMES)
        frames = windows(block.frames for block in stream)
        window = next(frames, None)
    while window is not None:
        with clock("encode"):
            watcher.add(window)
        progress(watcher.num_sampled, len(stream.indices))
        with clock("decode"):
            window = next(frames, None)
    with clock("encode"):
        kept = watcher.finish()
    return Watched(kept.media(), kept.num_sampled, clock.seconds, stream.summary.damage)


def recall(model: LongVUForConditionalGeneration, store: FeatureStore, video: str | Path, input_ids: Tensor) -> Watched:
    """Take a video's features from a store: nothing is decoded, nothing is encoded.

    Where all frames would fit beside the question but the store left out some near-duplicates, the model sees those
    that are stored.

    Args:
        store: made with the model's towers; the caller has compared their digests.
        video: the file, found by its content wherever it lay when it was extracted; or a video id.
        input_ids: as for :func:`watch`.

    Raises:
        StoreError: the store lacks the video, its SigLIP features, or frames that the model's threshold asks for.
    """
    clock = _Clock()
    with clock("read"):
        if "siglip" not in {spec.name for spec in store.manifest.features}:
            raise StoreError(
                f"{storage.shown(store.uri)} has DINOv2 features only and an answer needs SigLIP's too: "
                f"extract with features.siglip=true, or ask without --store"
            )
        video_id = storage.sha256(storage.resolve(video)) if Path(video).is_file() else str(video)
        found = store.load(video_id, model.config.dino_threshold)
        num_sampled, size = len(found.kept), (found.video["height"], found.video["width"])
        if not _too_many(model, input_ids, num_sampled, size):
            all_stored = found.video["num_stored"] == num_sampled
            found = store.load(video_id, math.inf if all_stored else None, cap=None)
        assert found.siglip is not None, "its column is in the manifest"
    kept = KeptFrames(found.dinov2, found.siglip, np.flatnonzero(found.kept).tolist(), num_sampled, size)
    return Watched(kept.media(), num_sampled, clock.seconds, found.video["message"])


@torch.inference_mode()
def answer(
    model: LongVUForConditionalGeneration,
    processor: LongVUProcessor,
    watched: Watched,
    input_ids: Tensor,
    max_new_tokens: int = 128,
) -> Answer:
    """Answer a question about a video, greedily.

    Args:
        input_ids: (1, T) from :func:`question_ids`.
        max_new_tokens: limit on the answer.
    """
    tokenizer, separator = processor.tokenizer, STOP_STRINGS[str(model.config.prompt_style)]
    stop = KeywordStop([separator], tokenizer, model.config.rules, prompt_length=input_ids.shape[1])
    clock = _Clock()
    with clock("answer"):
        sight = model.model.see(input_ids, watched.media, torch.ones_like(input_ids), generating=True)
        ids = model.generate(
            inputs_embeds=sight.merged.inputs_embeds,
            attention_mask=sight.merged.attention_mask.long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([stop]),
            pad_token_id=tokenizer.pad_token_id,
        )
    return Answer(
        text=tokenizer.decode(ids[0]).split(separator)[0].strip(),
        num_sampled=watched.num_sampled,
        num_kept=int(sight.media.kept_counts_V[0]),
        regime=sight.media.regime.names[0],
        visual_tokens=int(sight.visual.counts_V[0]),
        seconds=watched.seconds | clock.seconds,
    )


class _Clock:
    """Adds up the seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started_s


def _too_many(
    model: LongVUForConditionalGeneration, input_ids: Tensor, num_frames: int, size: tuple[int, int]
) -> bool:
    """Whether so many frames of (height, width) do not fit beside the question: near-duplicates are then left out."""
    layout = assembly.read_text(model.config, input_ids, None)
    return too_many_frames(model.config, num_frames, size, int(layout.budget_length_B[0]))
