"""One question about one video, from a file or from a feature store: what `longvu ask` does.

The video is watched as :mod:`pipelines.video_models.longvu` does it, with every budget exact to the token, and answered
by the library's own ``generate``. The result is the same as giving the model all frames at once. Many questions at a
time are the business of :mod:`pipelines.engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from longvu_model import assembly
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.prompts import STOP_STRINGS
from longvu_model.sight import Media
from longvu_model.stopping import KeywordStop
from longvu_model.video import FrameSampling
from pipelines.store import FeatureStore
from pipelines.video_models.clock import Clock
from pipelines.video_models.longvu import LongVU, load_parts
from pipelines.video_models.longvu_media import LongVUMedia, shown_media


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
    return load_parts(folder, device)


def question_ids(processor: LongVUProcessor, question: str) -> Tensor:
    """Token ids (1, T) of a question about one video, with its slot."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)


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
    longvu, text = LongVU(model, processor), _text_length(model, input_ids)
    return _shown(longvu, longvu.watch(video, sampling, progress, least_text=text), text)


def recall(
    model: LongVUForConditionalGeneration,
    processor: LongVUProcessor,
    store: FeatureStore,
    video: str | Path,
    input_ids: Tensor,
) -> Watched:
    """Take a video's features from a store, see :meth:`LongVU.recall`.

    Args:
        store: made with the model's towers; the caller has compared their digests.
        video: the file, found by its content wherever it lay when it was extracted; or a video id.
        input_ids: as for :func:`watch`.

    Raises:
        StoreError: the store lacks the video, its SigLIP features, or frames that the model's threshold asks for.
    """
    longvu, text = LongVU(model, processor), _text_length(model, input_ids)
    return _shown(longvu, longvu.recall(store, video, least_text=text), text)


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
    clock = Clock()
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


def _text_length(model: LongVUForConditionalGeneration, input_ids: Tensor) -> int:
    """Text length that frame budgets go by."""
    return int(assembly.read_text(model.config, input_ids, None).budget_length_B[0])


def _shown(longvu: LongVU, medium: LongVUMedia, text_length: int) -> Watched:
    media = shown_media([medium], [longvu.shown(medium, text_length)])
    return Watched(media, medium.num_sampled, medium.seconds, medium.damage)
