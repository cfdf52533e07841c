"""LLaMA-VID: a tower, a Q-Former, context and content tokens and a language model, joined.

Read ``LlamaVidModel.see`` for the whole visual path in order. What each step computes is in its own file.

Media enter as pixels or as tower features (from the feature store); each slot of the text is a view: one medium, seen
for one guiding text. See :mod:`longvu_model.llamavid.sight`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from longvu_model import assembly, ragged
from longvu_model.assembly import MergedInputs
from longvu_model.llamavid.compression import FrameTokens, VisualTokens, split_tokens
from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.llamavid.qformer import QFormer
from longvu_model.llamavid.sight import EncodedMedia, GuidedMedia, Media, Sight, Views
from longvu_model.llamavid.towers import EvaTower
from longvu_model.vision_language import AnsweringModel, EmbeddingsModel, VisionLanguagePreTrained

# Pairs of a text and a frame that the Q-Former reads at a time.
PAIRS_PER_CALL = 64


class LlamaVidPreTrainedModel(VisionLanguagePreTrained):
    """Configuration and weight initialisation."""

    config_class = LlamaVidConfig
    config: LlamaVidConfig
    _no_split_modules = ["VisionBlock", "QFormerLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.text_config.initializer_range
        if isinstance(module, EvaTower):
            init.normal_(module.position, std=std)
            init.normal_(module.class_token, std=std)
        elif isinstance(module, QFormer):
            init.normal_(module.queries, std=self.config.qformer_config.initializer_range)


class LlamaVidModel(EmbeddingsModel, LlamaVidPreTrainedModel):
    """Everything but the language model head."""

    def __init__(self, config: LlamaVidConfig):
        super().__init__(config)
        self.tower = EvaTower(config)
        self.tower.requires_grad_(False)  # frozen in every published stage
        seen_width = config.qformer_config.encoder_hidden_size
        self.image_proj = nn.Linear(self.tower.width, seen_width) if config.image_projection else None
        self.image_norm = nn.LayerNorm(seen_width) if config.image_norm else None
        self.qformer = QFormer(config)
        self.frame_tokens = FrameTokens(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def needs_question(self) -> bool:
        """Whether visual tokens depend on the question: context tokens always do."""
        return True

    def plan(self, frames: int) -> int:
        """Visual tokens of a video of so many frames."""
        return frames * self.config.tokens_per_frame

    def encode(self, media: Media) -> EncodedMedia:
        """The tower's features of all frames.

        Raises:
            ValueError: neither pixels nor features, or as many frames as the counts do not add up to.
        """
        stored = media.features is not None
        device, dtype = self.qformer.queries.device, self.qformer.queries.dtype
        if media.features is not None:
            features = media.features.to(device, dtype)
        elif media.pixel_values is not None:
            trained = any(parameter.requires_grad for parameter in self.tower.parameters())
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features = self.tower(media.pixel_values).to(dtype)
        else:
            raise ValueError("no media input: give pixel_values or features")
        counts_V = media.frame_counts.cpu()
        if len(features) != int(counts_V.sum()):
            raise ValueError(f"{len(features)} frames for frame_counts={counts_V.tolist()}")
        return EncodedMedia(counts_V, features, stored)

    def compress(self, encoded: EncodedMedia, views: Views) -> VisualTokens:
        """Visual tokens of encoded media for the guiding text of each view.

        Raises:
            ValueError: a view of a medium that is not there.
        """
        media_S, counts_V = views.media.cpu(), encoded.frame_counts
        if len(media_S) and not 0 <= int(media_S.min()) <= int(media_S.max()) < len(counts_V):
            raise ValueError(f"views of media {media_S.tolist()}, but {len(counts_V)} media are given")
        seen_FTD, visual_FPD = split_tokens(
            encoded.features, self.config.grid, self.config.rules, stored=encoded.stored
        )
        view_N, place_N = ragged.expand(counts_V[media_S])
        frame_N = ragged.starts(counts_V)[media_S][view_N] + place_N
        device = seen_FTD.device
        content_FcC = torch.cat([self.frame_tokens.content(part) for part in visual_FPD.split(PAIRS_PER_CALL)])
        contexts = []
        for view_n, frame_n in zip(view_N.split(PAIRS_PER_CALL), frame_N.split(PAIRS_PER_CALL), strict=True):
            rows_n, at_n = view_n.to(views.guide_ids.device), frame_n.to(device)
            ids_nL, mask_nL = views.guide_ids[rows_n].to(device), views.guide_mask[rows_n].to(device)
            inputs = (seen_FTD[at_n], visual_FPD[at_n], ids_nL, mask_nL)
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                contexts.append(checkpoint(self._context, *inputs, use_reentrant=False))
            else:
                contexts.append(self._context(*inputs))
        context_NC = torch.cat(contexts) if contexts else content_FcC.new_zeros(0, content_FcC.shape[2])
        tokens_NcC = torch.cat([context_NC[:, None], content_FcC[frame_N.to(device)]], dim=1)
        return VisualTokens(tokens_NcC.flatten(0, 1), counts_V[media_S] * tokens_NcC.shape[1])

    def _context(self, seen_NTD: Tensor, visual_NPD: Tensor, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        image_NTE = seen_NTD if self.image_proj is None else self.image_proj(seen_NTD)
        if self.image_norm is not None:
            image_NTE = self.image_norm(image_NTE)
        return self.frame_tokens.context(self.qformer(image_NTE, ids_NL, mask_NL), visual_NPD)

    def see(
        self,
        input_ids: Tensor,
        media: Media | EncodedMedia,
        views: Views,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        generating: bool = False,
        token_slots: bool = False,
    ) -> Sight:
        """The visual path: ids with slots and media -> embeddings of the merged sequence.

        Args:
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` where a view goes.
            media: pixels or features, or what :meth:`encode` made of them.
            views: one per slot.
            generating: rows will be continued, so corrected semantics pad on the left.
            token_slots: every slot is the place of one visual token, as in long videos with subtitles between frames.

        Raises:
            ValueError: media, views and slots do not match, or a row is longer than the model's limit.
        """
        rules = self.config.rules
        encoded = self.encode(media) if isinstance(media, Media) else media
        visual = self.compress(encoded, views)
        layout = assembly.text_layout(input_ids, None if rules.padding_is_embedded else attention_mask)
        counts_S = visual.counts_S
        if token_slots:
            counts_S = torch.ones(len(visual.embeds_LC), dtype=torch.int64)
            if int(layout.is_slot_BT.sum()) != len(counts_S):
                raise ValueError(
                    f"{int(layout.is_slot_BT.sum())} places in the text for {len(counts_S)} visual tokens of "
                    f"{int(encoded.frame_counts.sum())} frames; was the text cut?"
                )
        row_S, slot_S = assembly.rows_of_media(layout, len(counts_S), rules)
        merged = assembly.merge(
            None,  # too long a row is an error below: visual tokens are never cut off
            layout,
            self.embed,
            visual.embeds_LC,
            counts_S,
            row_S,
            slot_S,
            labels=labels,
            with_mask=not rules.mask_extended_in_front,
            with_positions=False,
            pad_left=not rules.decoding_attends_padding and (generating or self.config.padding_side == "left"),
        )
        if rules.mask_extended_in_front and attention_mask is not None:
            grown_B = torch.zeros(len(input_ids), dtype=torch.int64)
            grown_B.index_add_(0, row_S[slot_S >= 0], counts_S[slot_S >= 0] - 1)
            merged = MergedInputs(
                merged.inputs_embeds, _extended_in_front(attention_mask, grown_B, labels), None, merged.labels
            )
        limit, length = self.config.max_sequence_length, merged.inputs_embeds.shape[1]
        if limit is not None and length > limit and not rules.mask_extended_in_front:
            raise ValueError(
                f"{length} tokens with {int(encoded.frame_counts.sum())} frames, but max_sequence_length={limit}: take "
                "fewer frames, or extend the model's positions (longvu_model.llamavid.positions)"
            )
        return Sight(merged, encoded, visual)

    def learned_sequences(
        self, input_ids: Tensor, media: GuidedMedia, attention_mask: Tensor, labels: Tensor
    ) -> list[MergedInputs]:
        """See :meth:`EmbeddingsModel.learned_sequences`."""
        seen = self.see(input_ids, media.media, media.views, attention_mask, labels, token_slots=media.token_slots)
        return [seen.merged]


def _extended_in_front(mask_BT: Tensor, grown_B: Tensor, labels: Tensor | None) -> Tensor:
    """The published mask: ones for what was inserted, the old mask, then padding."""
    if labels is None and len(set(grown_B.tolist())) > 1:
        raise ValueError(
            f"rows that grow by {grown_B.tolist()} positions need labels beside the mask under published semantics; "
            "give labels, ask row by row, or use semantics='corrected'"
        )
    longest = mask_BT.shape[1] + int(grown_B.max())
    extended = torch.zeros(len(mask_BT), longest, dtype=torch.bool, device=mask_BT.device)
    for row, (mask_T, grown) in enumerate(zip(mask_BT.bool(), grown_B.tolist(), strict=True)):
        extended[row, :grown] = True
        extended[row, grown : grown + len(mask_T)] = mask_T
    return extended


class LlamaVidForConditionalGeneration(AnsweringModel, LlamaVidPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """LLaMA-VID with its language model head; answers questions about images and videos."""

    official = "longvu_model.llamavid.official"

    def __init__(self, config: LlamaVidConfig):
        super().__init__(config)
        self.model = LlamaVidModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        frame_counts: Tensor | None = None,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        guide_ids: Tensor | None = None,
        guide_mask: Tensor | None = None,
        view_media: Tensor | None = None,
        token_slots: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (float32), and the loss where labels are given.

        Args:
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` (-200) where a view goes.
            attention_mask: (B, T), true for real tokens.
            labels: int64 (B, T), -100 where nothing is learned.
            frame_counts, pixel_values, features: the media, see :class:`Media`.
            guide_ids, guide_mask, view_media: one view per slot, see :class:`Views`; view i is of medium i by default.
            token_slots: as in :meth:`LlamaVidModel.see`.

        Returns:
            ``logits`` are those of the merged sequence, which is longer than ``input_ids``.
        """
        if frame_counts is not None and inputs_embeds is None:
            if input_ids is None:
                raise ValueError("media need input_ids, whose slots say where they go")
            media = Media(frame_counts, pixel_values, features)
            views = _views(media, guide_ids, guide_mask, view_media)
            merged = self.model.see(input_ids, media, views, attention_mask, labels, token_slots=token_slots).merged
            input_ids, inputs_embeds = None, merged.inputs_embeds
            attention_mask, position_ids, labels = merged.attention_mask, merged.position_ids, merged.labels
        decoding = past_key_values is not None and past_key_values.get_seq_length() > 0
        if decoding and self.config.rules.decoding_attends_padding:
            attention_mask = position_ids = None
        return self.predict(
            labels=labels,
            logits_to_keep=logits_to_keep,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )

    @torch.no_grad()
    def encode_video(self, media: Media) -> EncodedMedia:
        """Encodes media once, to be asked about many times: ``generate(input_ids, encoded=..., guide_ids=...)``."""
        return self.model.encode(media)

    def seen(self, input_ids: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> MergedInputs | None:
        fields = {name: inputs.pop(name) for name in Media.__dataclass_fields__ if name in inputs}
        media = Media(**fields) if fields else inputs.pop("encoded", None)
        guides = [inputs.pop(name, None) for name in ("guide_ids", "guide_mask", "view_media")]
        token_slots = inputs.pop("token_slots", False)
        if media is None:
            return None
        views = _views(media, *guides)
        return self.model.see(input_ids, media, views, attention_mask, generating=True, token_slots=token_slots).merged


def _views(
    media: Media | EncodedMedia, guide_ids: Tensor | None, guide_mask: Tensor | None, view_media: Tensor | None
) -> Views:
    """The views of model inputs; of each medium one unless they say more."""
    if guide_ids is None:
        raise ValueError("media need guide_ids, the word pieces of what is asked; the processor makes them")
    if guide_mask is None:
        guide_mask = torch.ones_like(guide_ids)
    if view_media is None:
        view_media = torch.arange(len(media.frame_counts))
    if not len(guide_ids) == len(guide_mask) == len(view_media):
        raise ValueError(
            f"{len(guide_ids)} guide_ids, {len(guide_mask)} guide_mask and {len(view_media)} view_media: give one each "
            "for every slot"
        )
    return Views(guide_ids, guide_mask, view_media)
