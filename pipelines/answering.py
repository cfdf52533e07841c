"""One question about one video, from a file or from a feature store: what `longvu ask` does.

A file is decoded and encoded window by window, and of a window only what the model can still use is held, so memory
grows with what is new in a video and not with its length. The result is the same as giving the model all frames at
once. Many questions at a time are the business of evaluation and serving.

Shapes: F sampled frames, K kept ones, P tokens, D channels, T text tokens.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, StoppingCriteriaList

from longvu_model import assembly, frame_selection, official
from longvu_model.image_processing import preprocess_frames, tower_pixels
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.prompts import STOP_STRINGS
from longvu_model.regimes import media_shape, needs_reduction
from longvu_model.sight import Media
from longvu_model.stopping import KeywordStop
from longvu_model.video import FrameSampling, FrameStream, iter_frame_blocks
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
    siglip_pixels, dino_pixels = tower_pixels(processor.video_processor)
    towers, threshold = model.model.towers, model.config.dino_threshold
    similarity_F = torch.empty(0)
    held: dict[int, tuple[Tensor, Tensor]] = {}  # frame -> DINOv2 features (P, D), SigLIP pixels (3, s, s)
    size = (0, 0)
    clock = _Clock()
    with clock("decode"):
        stream = iter_frame_blocks(video, sampling, block_frames=frame_selection.WINDOW_FRAMES)
        windows = _windows(stream)
        frames_FHWC = next(windows, None)
    while frames_FHWC is not None:
        with clock("encode"):
            first, size = len(similarity_F), frames_FHWC.shape[1:3]
            pixels = preprocess_frames(frames_FHWC, dino_pixels.size, dino_pixels.mean, dino_pixels.std)
            features_FPD = towers.dino(pixels.to(model.device)).to(model.dtype)
            similarity_F = torch.cat([similarity_F, frame_selection.window_similarity(features_FPD).cpu()])
            useful_F = similarity_F < threshold
            if not _too_many(model, input_ids, len(similarity_F), size):
                useful_F[:] = True
            held = {frame: value for frame, value in held.items() if useful_F[frame]}
            places = useful_F[first:].nonzero()[:, 0].tolist()
            pixels = preprocess_frames(frames_FHWC[places], siglip_pixels.size, siglip_pixels.mean, siglip_pixels.std)
            for place, frame_pixels in zip(places, pixels, strict=True):
                # Clones: a slice would keep the whole window alive.
                held[first + place] = features_FPD[place].clone(), frame_pixels.to(model.dtype, copy=True)
        progress(len(similarity_F), len(stream.indices))
        with clock("decode"):
            frames_FHWC = next(windows, None)

    num_sampled = len(similarity_F)
    keep_F = torch.ones(num_sampled, dtype=torch.bool)
    if _too_many(model, input_ids, num_sampled, size):
        keep_F = frame_selection.keep_frames(similarity_F, threshold)
    kept = keep_F.nonzero()[:, 0].tolist()
    with clock("encode"):
        dino_KPD = torch.stack([held[frame][0] for frame in kept])
        siglip_KPD = towers.siglip(torch.stack([held[frame][1] for frame in kept]).to(model.device))
    return Watched(_media(dino_KPD, siglip_KPD, kept, size), num_sampled, clock.seconds, stream.summary.damage)


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
        kept = np.flatnonzero(found.kept).tolist()
    media = _media(found.dinov2, found.siglip, kept, size)
    return Watched(media, num_sampled, clock.seconds, found.video["message"])


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


def _windows(stream: FrameStream) -> Iterator[np.ndarray]:
    """Frames (F, H, W, C) by windows; the decoder's blocks are smaller where frames are large."""
    held: list[np.ndarray] = []
    for block in stream:
        held.extend(block.frames)
        while len(held) >= frame_selection.WINDOW_FRAMES:
            yield np.stack(held[: frame_selection.WINDOW_FRAMES])
            held = held[frame_selection.WINDOW_FRAMES :]
    if held:
        yield np.stack(held)


def _too_many(
    model: LongVUForConditionalGeneration, input_ids: Tensor, num_frames: int, size: tuple[int, int]
) -> bool:
    """Whether so many frames of (height, width) do not fit beside the question: near-duplicates are then left out."""
    layout = assembly.read_text(model.config, input_ids, None)
    row_V, is_video_V = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    shape = media_shape(model.config, row_V, is_video_V, torch.tensor([num_frames]), torch.tensor([size]))
    return bool(needs_reduction(model.config, shape, layout.budget_length_B))


def _media(dino_KPD: Tensor, siglip_KPD: Tensor, kept: list[int], size: tuple[int, int]) -> Media:
    return Media(
        frame_counts=torch.tensor([len(kept)]),
        image_sizes=torch.tensor([size]),
        is_video=torch.ones(1, dtype=torch.bool),
        siglip_features=siglip_KPD,
        dino_features=dino_KPD,
        frame_times=torch.tensor(kept),
        preselected=True,
    )
