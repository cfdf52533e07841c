"""LongVU behind the common interface: towers once per video, tokens once per way of showing it.

How many frames and tokens a video may cost depends on the length of the text beside it. Under corrected semantics that
length is rounded up to a step, the reserved text budget, so that all questions up to it see bitwise the same visual
tokens and can share what the decoder made of them. Under published semantics every budget is the published one, to the
token, and tokens are shared only between questions for which it comes out the same.

Shapes: F sampled frames, K frames held, P tokens of a tower, D channels, T ids, V media, C model width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from longvu_model import assembly, official
from longvu_model.compression import VisualTokens
from longvu_model.frame_selection import keep_frames
from longvu_model.image_processing import tower_pixels
from longvu_model.modeling import LongVUForConditionalGeneration
from longvu_model.processing import LongVUProcessor
from longvu_model.prompts import STOP_STRINGS
from longvu_model.regimes import Regime, choose_regime, media_shape
from longvu_model.sight import EncodedMedia
from longvu_model.video import FrameSampling
from longvu_model.watching import FrameWatcher, too_many_frames, windows
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
    token_ids,
    video_id_of,
)
from pipelines.video_models.clock import Clock
from pipelines.video_models.frames import SampledFrames
from pipelines.video_models.longvu_media import LongVUMedia, shapes, shown_media, times
from pipelines.video_models.lru import ByteLRU
from pipelines.video_models.weights import load_options, settle

if TYPE_CHECKING:
    from pipelines.store import FeatureStore

TEXT_STEPS = 32
"""The reserved text budget is a multiple of the context divided by this: of 256 tokens where 8192 are the limit."""
ANSWER_SHARE = 8
"""Answers may go beyond the limit of the prompt by the context divided by this."""
_TOKEN_CACHE_BYTES = 1 << 30
# Everything but the decoder stays in full precision: small, and read by code that asks for weights' dtypes.
_UNQUANTISED = ["model.towers", "model.aggregator", "model.frame_tokens", "lm_head"]


class LongVU(VideoModel):
    """A LongVU model and its processor.

    Args:
        model: in evaluation mode, on its device.
        processor: fits the model; of it only the tokenizer, ``apply_chat_template`` and the tower pixels are used.
        text_step: the reserved text budget is the text's length rounded up to a multiple of this; by default exact
            under published semantics, otherwise the context divided by ``TEXT_STEPS``.
    """

    family: ClassVar[str] = "longvu"

    def __init__(
        self, model: LongVUForConditionalGeneration, processor: LongVUProcessor, *, text_step: int | None = None
    ) -> None:
        super().__init__(model, processor)
        self.stop_strings = (STOP_STRINGS[str(self.config.prompt_style)],)
        self.eos_token_ids = frozenset(
            token_ids(model.generation_config.eos_token_id) + token_ids(self.tokenizer.eos_token_id)
        )
        limit = self.config.max_sequence_length or self.config.text_config.max_position_embeddings
        self.max_length = min(limit + limit // ANSWER_SHARE, self.config.text_config.max_position_embeddings)
        default_step = 1 if self.config.rules.text_length_by_pad_id else max(1, limit // TEXT_STEPS)
        self.text_step = text_step or default_step
        self._made: ByteLRU[EncodedMedia | VisualTokens] = ByteLRU(_TOKEN_CACHE_BYTES, _nbytes)

    def watch(
        self,
        source: Source,
        sampling: FrameSampling | None = None,
        progress: Progress = lambda done, planned: None,
        *,
        kind: Kind | None = None,
        limits: DecodeLimits | None = None,
        least_text: int = 1,
    ) -> LongVUMedia:
        """See :meth:`VideoModel.watch`.

        Args:
            least_text: text tokens that every question about it will have at least; the fewer, the more frames are
                held that only a short one can show.
        """
        clock = Clock()
        with clock("decode"):
            frames = SampledFrames(source, sampling or self.sampling, kind, limits)
        watched = self.watch_frames(frames, frames.kind, clock, lambda done: progress(done, frames.planned), least_text)
        times_s = [frames.times_s[place] for place in watched.places_K.tolist()]
        return replace(watched, kept_times_s=times_s, damage=frames.damage)

    @torch.inference_mode()
    def watch_frames(
        self,
        blocks: Any,
        kind: Kind = "video",
        clock: Clock | None = None,
        progress: Any = lambda done: None,
        least_text: int = 1,
    ) -> LongVUMedia:
        """Encode frames that come in blocks, uint8 (F, H, W, 3); their times are left out."""
        clock = clock or Clock()
        pixels = self.processor.video_processor if kind == "video" else self.processor.image_processor
        watcher = FrameWatcher(
            self.model.model.towers,
            tower_pixels(pixels),
            self.config.dino_threshold,
            lambda frames, size: kind == "video" and too_many_frames(self.config, frames, size, least_text),
            self.model.dtype,
        )
        incoming = windows(blocks)
        while True:
            with clock("decode"):
                window = next(incoming, None)
            if window is None:
                break
            with clock("encode"):
                watcher.add(window)
            progress(watcher.num_sampled)
        with clock("encode"):
            kept = watcher.finish()
        return LongVUMedia(
            kind=kind,
            num_sampled=kept.num_sampled,
            kept_times_s=[],
            seconds=clock.seconds,
            siglip_KPD=kept.siglip_KPD,
            dino_KPD=kept.dino_KPD,
            places_K=torch.tensor(kept.places),
            similarity_F=watcher.similarity_F,
            size=kept.size,
        )

    def recall(self, store: FeatureStore, video: str | Path, least_text: int = 1) -> LongVUMedia:
        """See :meth:`VideoModel.recall`.

        Where all frames fit but the store left out some near-duplicates, those that are stored are shown.
        """
        from pipelines import storage  # they need Arrow, which answering about files does without
        from pipelines.store import StoreError

        clock = Clock()
        with clock("read"):
            if "siglip" not in {spec.name for spec in store.manifest.features}:
                raise StoreError(
                    f"{storage.shown(store.uri)} has DINOv2 features only and an answer needs SigLIP's too: "
                    f"extract with features.siglip=true, or ask without --store"
                )
            video_id = video_id_of(video)
            threshold, row = self.config.dino_threshold, store.row(video_id)
            num_sampled, size = len(row["similarity"]), (row["height"], row["width"])
            kept_F = keep_frames(torch.tensor(row["similarity"]), threshold).numpy()
            lacking = bool((kept_F & ~np.asarray(row["stored"], bool)).any())
            if lacking or too_many_frames(self.config, num_sampled, size, least_text):
                found = store.load(video_id, threshold)  # says so where frames are lacking
            else:
                found = store.load(video_id, math.inf if row["num_stored"] == num_sampled else None, cap=None)
        assert found.siglip is not None, "its column is in the manifest"
        return LongVUMedia(
            kind=row["kind"],
            num_sampled=num_sampled,
            kept_times_s=found.pts_s.tolist(),
            seconds=clock.seconds,
            damage=row["message"],
            siglip_KPD=found.siglip,
            dino_KPD=found.dinov2,
            places_K=torch.from_numpy(np.flatnonzero(found.kept)),
            similarity_F=torch.from_numpy(found.similarity),
            size=size,
        )

    def shown(self, medium: LongVUMedia, text_length: int, num_media: int = 1) -> Tensor:
        """Which held frames are shown beside so much text: int64 indices among the K held."""
        everything = torch.arange(len(medium.places_K))
        if medium.kind == "image":
            return everything
        if not too_many_frames(self.config, medium.num_sampled, medium.size, text_length, num_media):
            return everything
        keep_F = keep_frames(medium.similarity_F, self.config.dino_threshold)
        return everything[keep_F[medium.places_K.cpu()]]

    @torch.inference_mode()
    def prompt(self, messages: Messages, media: Sequence[WatchedMedia] = ()) -> Prompt:
        """See :meth:`VideoModel.prompt`."""
        ours = chat.matched(messages, media, LongVUMedia)
        ids_BT = self.processor.apply_chat_template(chat.without_sources(messages), tokenize=True)
        layout = assembly.read_text(self.config, ids_BT, torch.ones_like(ids_BT))
        self._check_length(int(layout.num_text_B))
        if not ours:
            return Prompt(self.model.model.embed(ids_BT[0]), 0, "text", ids_BT.shape[1])
        return self._with_media(ids_BT, layout, ours)

    def _check_length(self, num_text: int) -> None:
        limit = self.config.max_sequence_length
        if limit is not None and num_text > limit - self.config.answer_reserve:
            raise PromptTooLong(
                f"the text has {num_text} tokens, the model takes {limit - self.config.answer_reserve}: "
                f"shorten the question or leave out earlier turns"
            )

    def _with_media(self, ids_BT: Tensor, layout: assembly.TextLayout, media: Sequence[LongVUMedia]) -> Prompt:
        config = self.config
        row_V, slot_V = assembly.rows_of_media(layout, len(media), config.rules)
        num_text_B, budget_length_B = (self._reserved(length) for length in (layout.num_text_B, layout.budget_length_B))
        shown = [self.shown(medium, int(budget_length_B), len(media)) for medium in media]
        counts_V, sizes_V2, is_video_V = shapes(media, shown)
        shape = media_shape(config, row_V, is_video_V, counts_V, sizes_V2)
        regime = choose_regime(config, shape, counts_V, budget_length_B, num_text_B)
        visual, key = self._visual(media, shown, regime, layout, row_V, (num_text_B, budget_length_B))
        merged = assembly.merge(
            config.max_sequence_length,
            layout,
            self.model.model.embed,
            visual.embeds_LC,
            visual.counts_V,
            row_V,
            slot_V,
        )
        last_slot, num_visual = int(slot_V[-1]), int(visual.counts_V.sum())
        text_before = int(layout.is_text_BT[0, :last_slot].sum())
        return Prompt(
            embeds=merged.inputs_embeds[0],
            visual_tokens=num_visual,
            regime="+".join(dict.fromkeys(regime.names)),
            text_tokens=int(layout.num_text_B),
            kept_times_s=[times(medium, frames) for medium, frames in zip(media, shown, strict=True)],
            prefix_length=0 if key is None else text_before + num_visual,
            prefix_key=None if key is None else _digest(key, ids_BT[0, : last_slot + 1].tolist()),
        )

    def _visual(
        self,
        media: Sequence[LongVUMedia],
        shown: Sequence[Tensor],
        regime: Regime,
        layout: assembly.TextLayout,
        row_V: Tensor,
        lengths: tuple[Tensor, Tensor],
    ) -> tuple[VisualTokens, str | None]:
        """Tokens of the media, and their key; None where the question guides them.

        Held are the aggregated cells, whatever the budget, and tokens that no question guides.
        """
        upgrades_V = regime.num_upgraded_V > 0
        frames = [(medium.identity, places.tolist()) for medium, places in zip(media, shown, strict=True)]
        key = None
        if not bool(upgrades_V.any()):
            budget_V = torch.where(regime.drop_V, regime.budget_V, 0)
            fields = (regime.kind_V, regime.base_full_V, regime.drop_V, budget_V)
            key = _digest(frames, [field.tolist() for field in fields])
            visual = self._made.get(key)
            if isinstance(visual, VisualTokens):
                return visual, key
        cells_key = _digest(frames, regime.base_full_V.tolist(), upgrades_V.tolist())
        encoded = self._made.get(cells_key)
        if not isinstance(encoded, EncodedMedia):
            encoded = self.model.model.encode(shown_media(media, shown), row_V, *lengths)
            self._made.put(cells_key, encoded)
        question_BC = assembly.mean_question(layout, self.model.model.embed, None, self.config.rules)
        visual = self.model.model.compress(replace(encoded, regime=regime), question_BC[row_V.to(question_BC.device)])
        if key is not None:
            self._made.put(key, visual)
        return visual, key

    def _reserved(self, length_B: Tensor) -> Tensor:
        return -(-length_B // self.text_step) * self.text_step


def load(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None,
    quantization: Quantization | None,
    overrides: Mapping[str, Any],
) -> LongVU:
    """See :func:`pipelines.video_models.load_video_model`."""
    options = load_options(device, dtype, quantization, _UNQUANTISED)
    if official.is_published(folder):
        model = official.load(folder, **options)
        processor = LongVUProcessor.from_config(model.config, AutoTokenizer.from_pretrained(folder))
    else:
        model = LongVUForConditionalGeneration.from_pretrained(folder, **options)
        processor = LongVUProcessor.from_pretrained(folder)
    settle(model, device, quantization, overrides)
    return LongVU(model, processor)


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _nbytes(seen: EncodedMedia | VisualTokens) -> int:
    return seen.embeds_LC.nbytes if isinstance(seen, VisualTokens) else sum(group.nbytes for group in seen.groups_ND)
