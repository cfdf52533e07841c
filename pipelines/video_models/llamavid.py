"""LLaMA-VID behind the common interface: tower features once per video, tokens once per question about it.

Context tokens depend on the question, so nothing of a prompt from its first medium on can be shared between questions;
what is kept is the tower's output, and the tokens of the newest questions. A long video's output stays in its feature
store: it is read in parts for each question, of which two tokens a frame are held.

Shapes: F frames, T tower tokens of a frame, D channels, L visual tokens, C model width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from longvu_model import assembly
from longvu_model.image_processing import preprocess_frames
from longvu_model.llamavid.labels import guide_of
from longvu_model.llamavid.long_video import interleave, question_about
from longvu_model.llamavid.modeling import LlamaVidForConditionalGeneration
from longvu_model.llamavid.sight import EncodedMedia, Views
from longvu_model.subtitles import Subtitle
from longvu_model.vicuna import STOP_STRING
from pipelines.video_models import chat
from pipelines.video_models.base import (
    DecodeLimits,
    Kind,
    Messages,
    Progress,
    Prompt,
    PromptTooLong,
    Quantization,
    Source,
    VideoModel,
    WatchedMedia,
    video_id_of,
)
from pipelines.video_models.clock import Clock
from pipelines.video_models.lru import ByteLRU
from pipelines.video_models.weights import load_options, settle

if TYPE_CHECKING:
    from longvu_model.llamavid.processing import LlamaVidProcessor
    from longvu_model.video import FrameSampling
    from pipelines.store import FeatureStore

FEATURE = "eva"
"""Name of the tower's features in a feature store: (1 + P, D) of each frame, class token first."""
HELD_BYTES = 512 << 20
"""Stored features of more bytes are read for each question instead of held: at the published size, of 12 minutes."""
ANSWER_SHARE = 16
"""The context divided by this is kept free for the answer where frames are left out."""

_TOKEN_CACHE_BYTES = 256 << 20
_UNQUANTISED = ["model.tower", "model.image_proj", "model.image_norm", "model.qformer", "model.frame_tokens", "lm_head"]


@dataclass(frozen=True, kw_only=True)
class LlamaVidMedia(WatchedMedia):
    """Tower features of all sampled frames, here or in a feature store.

    Attributes:
        features_FTD: the tower's output; None where it stays in the store.
        store, video_id: where it is then.
    """

    features_FTD: Tensor | None
    store: FeatureStore | None = None
    video_id: str = ""

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.kept_times_s)

    def blocks(self) -> Iterator[Tensor]:
        """The features in order, in parts."""
        if self.features_FTD is not None:
            yield self.features_FTD
            return
        assert self.store is not None
        yield from self.store.blocks(self.video_id, FEATURE)


class LlamaVid(VideoModel):
    """A LLaMA-VID model and its processor; where not all frames fit beside the text, they are thinned evenly.

    Args:
        model: in evaluation mode, on its device.
        processor: fits the model.
    """

    family: ClassVar[str] = "llamavid"

    def __init__(self, model: LlamaVidForConditionalGeneration, processor: LlamaVidProcessor) -> None:
        super().__init__(model, processor)
        self.stop_strings = (STOP_STRING,)
        self.eos_token_ids = frozenset({self.tokenizer.eos_token_id})
        self.max_length = int(self.config.max_sequence_length or self.config.text_config.max_position_embeddings)
        self._tokens: ByteLRU[Tensor] = ByteLRU(_TOKEN_CACHE_BYTES, lambda tokens: tokens.nbytes)

    @torch.inference_mode()
    def watch(
        self,
        source: Source,
        sampling: FrameSampling | None = None,
        progress: Progress = lambda done, planned: None,
        *,
        kind: Kind | None = None,
        limits: DecodeLimits | None = None,
    ) -> LlamaVidMedia:
        """See :meth:`VideoModel.watch`."""
        from longvu_model.llamavid.processing import tower_pixels
        from pipelines.video_models.frames import SampledFrames  # needs PyAV

        clock = Clock()
        with clock("decode"):
            frames = SampledFrames(source, sampling or self.sampling, kind, limits)
        by = self.processor.video_processor if frames.kind == "video" else self.processor.image_processor
        tower, blocks, features = tower_pixels(by), iter(frames), []
        while True:
            with clock("decode"):
                block = next(blocks, None)
            if block is None:
                break
            with clock("encode"):
                pixels = preprocess_frames(block, tower.size, tower.mean, tower.std, crop=tower.crop)
                features.append(self.model.model.tower(pixels.to(self.device)).to(self.dtype))
            progress(sum(map(len, features)), frames.planned)
        features_FTD = torch.cat(features)
        return LlamaVidMedia(
            kind=frames.kind,
            num_sampled=len(features_FTD),
            kept_times_s=frames.times_s,
            seconds=clock.seconds,
            damage=frames.damage,
            features_FTD=features_FTD,
        )

    def recall(self, store: FeatureStore, video: str | Path) -> LlamaVidMedia:
        """See :meth:`VideoModel.recall`. Features of more than :data:`HELD_BYTES` are left in the store."""
        store.require(FEATURE, "LLaMA-VID")
        clock = Clock()
        with clock("read"):
            video_id = video_id_of(video)
            row = store.row(video_id)
            (spec,) = (spec for spec in store.manifest.features if spec.name == FEATURE)
            held = len(row["pts_s"]) * spec.frame_bytes <= HELD_BYTES
            features_FTD = store.load(video_id).features[FEATURE] if held else None
        return LlamaVidMedia(
            kind=row["kind"],
            num_sampled=len(row["pts_s"]),
            kept_times_s=row["pts_s"],
            seconds=clock.seconds,
            damage=row["message"],
            features_FTD=features_FTD,
            store=None if held else store,
            video_id=video_id,
        )

    @torch.inference_mode()
    def prompt(self, messages: Messages, media: Sequence[WatchedMedia] = ()) -> Prompt:
        """See :meth:`VideoModel.prompt`.

        A video's part may have ``subtitles``, a list of :class:`longvu_model.subtitles.Subtitle`: they are then written
        between its frames, as the release does for films. It must be the only medium, and asked about in one turn.
        """
        ours = chat.matched(messages, media, LlamaVidMedia)
        subtitles = [part["subtitles"] for part in chat.parts(messages) if part.get("subtitles")]
        if subtitles:
            return self._film(chat.without_sources(messages), ours, subtitles[0])
        open_answer = messages[-1]["role"] == "assistant"
        inputs = self.processor.apply_chat_template(
            chat.without_sources(messages), tokenize=True, return_dict=True, continue_final_message=open_answer
        )
        ids_BT = inputs["input_ids"]
        num_text = int((ids_BT >= 0).sum())
        shown = self._shown(ours, num_text)
        if not ours:
            return Prompt(self.model.model.embed(ids_BT[0]), 0, "text", num_text)
        tokens = [
            self._see(medium, frames, inputs["guide_ids"][[i]], inputs["guide_mask"][[i]])
            for i, (medium, frames) in enumerate(zip(ours, shown, strict=True))
        ]
        return self._placed(ids_BT, tokens, ours, shown)

    def _film(
        self, messages: Sequence[Mapping[str, Any]], media: Sequence[LlamaVidMedia], subtitles: Sequence[Subtitle]
    ) -> Prompt:
        """The release's prompt for films: a slot for every token, with what is said in between.

        The release knows films by stored features only, so under published semantics they are seen as stored ones are.
        """
        if len(media) != 1 or len(messages) != 1:
            raise ValueError(
                f"{len(messages)} messages about {len(media)} media: a video with subtitles is asked about in one "
                "message and is its only medium"
            )
        medium, cost = media[0], self.config.tokens_per_frame
        question = "".join(part["text"] for part in chat.parts(messages) if part["type"] == "text")
        frames = torch.arange(medium.num_frames)
        while True:
            times_s = [medium.kept_times_s[frame] for frame in frames.tolist()]
            text = question_about(interleave(times_s, subtitles, self.config.rules), question, cost)
            ids_BT = self.processor.tokenize_question(text)
            num_text = int((ids_BT >= 0).sum())
            room = self._room(num_text, cost)
            if len(frames) * cost <= room:
                break
            # Subtitles move to the frames that are left, so their tokens stay about the same.
            frames = _evenly(medium.num_frames, min(room // cost, len(frames) - 1))
        guide = self.processor.guide_inputs([guide_of(question)])
        tokens_LC = self._see(medium, frames, guide["guide_ids"], guide["guide_mask"], stored=True)
        return self._placed(ids_BT, list(tokens_LC.split(1)), [medium], [frames])

    def _room(self, num_text: int, least: int) -> int:
        """Visual tokens that fit beside so much text and an answer; raises where not even ``least`` do."""
        room = self.max_length - self.max_length // ANSWER_SHARE - num_text
        if room < least:
            raise PromptTooLong(
                f"the text has {num_text} tokens, of {self.max_length} that the model takes: shorten the question or "
                "leave out earlier turns"
            )
        return room

    def _shown(self, media: Sequence[LlamaVidMedia], num_text: int) -> list[Tensor]:
        """Which frames of each medium are shown: all, or so many that the media share the room evenly."""
        cost = self.config.tokens_per_frame
        room = self._room(num_text, cost * len(media))
        counts = [medium.num_frames for medium in media]
        if sum(counts) * cost > room:
            counts = [min(count, room // cost // len(media)) for count in counts]
        return [_evenly(medium.num_frames, count) for medium, count in zip(media, counts, strict=True)]

    def _see(
        self, medium: LlamaVidMedia, frames: Tensor, guide_ids: Tensor, guide_mask: Tensor, *, stored: bool = False
    ) -> Tensor:
        """Visual tokens (L, C) of some frames of a medium for one guiding text.

        Args:
            stored: see :class:`longvu_model.llamavid.sight.EncodedMedia`.
        """
        guide = guide_ids[guide_mask].tolist()
        key = hashlib.blake2b(repr((medium.identity, len(frames), guide, stored)).encode(), digest_size=16).hexdigest()
        tokens_LC = self._tokens.get(key)
        if tokens_LC is None:
            views = Views(guide_ids, guide_mask, torch.tensor([0]))
            parts = [
                self.model.model.compress(EncodedMedia(torch.tensor([len(part)]), part, stored), views).embeds_LC
                for part in self._chosen(medium, frames)
            ]
            tokens_LC = torch.cat(parts)
            self._tokens.put(key, tokens_LC)
        return tokens_LC

    def _chosen(self, medium: LlamaVidMedia, frames: Tensor) -> Iterator[Tensor]:
        """Features of some frames, in parts, where the model is."""
        first = 0
        for block in medium.blocks():
            inside = frames[(frames >= first) & (frames < first + len(block))] - first
            first += len(block)
            if len(inside):
                chosen = block if len(inside) == len(block) else block[inside.to(block.device)]
                yield chosen.to(self.device, self.dtype)

    def _placed(
        self, ids_BT: Tensor, tokens: Sequence[Tensor], media: Sequence[LlamaVidMedia], shown: Sequence[Tensor]
    ) -> Prompt:
        """The prompt, with the tokens of each slot in its place."""
        layout = assembly.text_layout(ids_BT, None)
        row_S, slot_S = assembly.rows_of_media(layout, len(tokens), self.config.rules)
        visual_LC = torch.cat(list(tokens))
        merged = assembly.merge(
            None,
            layout,
            self.model.model.embed,
            visual_LC,
            torch.tensor([len(part) for part in tokens]),
            row_S,
            slot_S,
        )
        return Prompt(
            embeds=merged.inputs_embeds[0],
            visual_tokens=len(visual_LC),
            regime=self.config.compress_type,
            text_tokens=int(layout.num_text_B),
            kept_times_s=[
                [medium.kept_times_s[frame] for frame in frames.tolist()]
                for medium, frames in zip(media, shown, strict=True)
            ],
        )


def load(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    quantization: Quantization | None,
    overrides: Mapping[str, Any],
) -> LlamaVid:
    """See :func:`pipelines.video_models.load_video_model`."""
    from longvu_model.llamavid.processing import LlamaVidProcessor  # needs PyAV

    options = load_options(device, dtype, quantization, _UNQUANTISED)
    model = LlamaVidForConditionalGeneration.from_pretrained(folder, **options)
    settle(model, device, quantization, overrides)
    return LlamaVid(model, LlamaVidProcessor.from_pretrained(folder))


def _evenly(total: int, count: int) -> Tensor:
    """``count`` of ``total`` places, evenly spread."""
    return torch.arange(count) * total // count
