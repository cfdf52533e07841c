"""LongVU: two towers, frame selection, aggregator, compression and a language model, joined.

Read ``LongVUModel.see`` for the whole visual path in order. What each step computes is in its own file.

Media enter as pixels of both towers or as tower features (from the feature store), see :mod:`longvu_model.sight`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from longvu_model import assembly, frame_selection, ragged
from longvu_model.aggregator import Aggregator, AggregatorLayer, KeyValue
from longvu_model.assembly import MergedInputs
from longvu_model.compression import FrameTokens, VisualTokens, compress, plan_cells
from longvu_model.config import LongVUConfig
from longvu_model.regimes import Regime, choose_regime, media_shape, needs_reduction
from longvu_model.sight import EncodedMedia, Media, Sight
from longvu_model.towers import DinoTower, SiglipTower, Towers
from longvu_model.vision_language import AnsweringModel, EmbeddingsModel, VisionLanguagePreTrained


class LongVUPreTrainedModel(VisionLanguagePreTrained):
    """Configuration and weight initialisation."""

    config_class = LongVUConfig
    config: LongVUConfig
    _no_split_modules = ["VisionBlock", "AggregatorLayer", "Qwen2DecoderLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.text_config.initializer_range
        if isinstance(module, KeyValue):
            for weight in (module.key_weight, module.value_weight):
                init.xavier_uniform_(weight)
            for weight in (module.key_norm_weight, module.value_norm_weight):
                init.ones_(weight)
            for bias in (module.key_norm_bias, module.value_norm_bias):
                init.zeros_(bias)
            if module.pos_embed is not None:
                init.normal_(module.pos_embed)  # N(0, 1), as when the video stage introduces it
        elif isinstance(module, AggregatorLayer):
            init.xavier_uniform_(module.proj_in)
        elif isinstance(module, Aggregator):
            init.normal_(module.queries, std=module.queries.shape[1] ** -0.5)
        elif isinstance(module, FrameTokens):
            init.normal_(module.newline, std=len(module.newline) ** -0.5)
        elif isinstance(module, SiglipTower | DinoTower):
            init.normal_(module.position, std=std)
            if isinstance(module, DinoTower):
                init.normal_(module.class_token, std=std)


class LongVUModel(EmbeddingsModel, LongVUPreTrainedModel):
    """Everything but the language model head."""

    def __init__(self, config: LongVUConfig):
        super().__init__(config)
        self.towers = Towers(config)
        self.towers.requires_grad_(False)  # frozen in the published recipe; unfreeze with requires_grad_(True)
        self.aggregator = Aggregator(config)
        self.frame_tokens = FrameTokens(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def encode(self, media: Media, row_V: Tensor, num_text_B: Tensor, budget_length_B: Tensor) -> EncodedMedia:
        """Towers, temporal reduction, regime and aggregator.

        Args:
            row_V: batch row of each medium.
            num_text_B, budget_length_B: text lengths, see :class:`longvu_model.assembly.TextLayout`.
        """
        shape = media_shape(
            self.config,
            row_V,
            media.is_video.cpu(),
            media.frame_counts.cpu(),
            media.image_sizes.cpu(),
            None if media.size_swapped is None else media.size_swapped.cpu(),
        )
        dino_FTD = self._tower_features(self.towers.dino, media.pixel_values_dino, media.dino_features, "dino")
        if len(dino_FTD) != int(shape.frame_counts_V.sum()):
            raise ValueError(f"{len(dino_FTD)} DINOv2 frames for frame_counts={shape.frame_counts_V.tolist()}")
        medium_F, place_F = ragged.expand(shape.frame_counts_V)

        keep_F = torch.ones(len(medium_F), dtype=torch.bool)
        reduce_V = needs_reduction(self.config, shape, budget_length_B)
        if bool(reduce_V.any()) and not media.preselected:
            similarity_F = frame_selection.window_similarity(dino_FTD, shape.frame_counts_V)
            below_F = frame_selection.keep_frames(similarity_F, self.config.dino_threshold, shape.frame_counts_V)
            keep_F = below_F.cpu() | ~reduce_V[medium_F]
        kept_F = keep_F.nonzero()[:, 0]
        kept_counts_V = torch.bincount(medium_F[kept_F], minlength=len(row_V))
        if not bool(keep_F.all()):
            dino_FTD = dino_FTD[kept_F.to(dino_FTD.device)]
        siglip_FTD = self._siglip_features(media, keep_F)

        regime = choose_regime(self.config, shape, kept_counts_V, budget_length_B, num_text_B)
        plan = plan_cells(self.config, shape, regime, kept_counts_V)
        groups_ND = self.aggregator(siglip_FTD, dino_FTD, plan.cells)
        times_F = (place_F if media.frame_times is None else media.frame_times.cpu())[kept_F]
        return EncodedMedia(num_text_B, shape, regime, plan, groups_ND, kept_F, kept_counts_V, times_F)

    @property
    def needs_question(self) -> bool:
        """Whether visual tokens may depend on the question: in the mixed regime it chooses the full-size frames."""
        return bool(self.config.mixed_resolution)

    def plan(self, frames: int, text_tokens: int, size: tuple[int, int]) -> Regime:
        """The regime of one video, known before anything is encoded.

        Args:
            frames: frames kept by temporal reduction.
            text_tokens: text tokens beside it.
            size: (height, width) in pixels.
        """
        count, text = torch.tensor([frames]), torch.tensor([text_tokens])
        row, video = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
        shape = media_shape(self.config, row, video, count, torch.tensor([size]))
        return choose_regime(self.config, shape, count, text, text)

    def compress(self, encoded: EncodedMedia, question_VC: Tensor) -> VisualTokens:
        """Visual tokens of encoded media for one question; ``question_VC`` is its mean embedding for each medium."""
        return compress(
            self.frame_tokens,
            encoded.groups_ND,
            encoded.plan,
            encoded.shape,
            encoded.regime,
            encoded.kept_counts_V,
            encoded.times_F,
            question_VC,
        )

    def see(
        self,
        input_ids: Tensor,
        media: Media | EncodedMedia,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        generating: bool = False,
    ) -> Sight:
        """The visual path: ids with slots and media -> embeddings of the merged sequence.

        Args:
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` where a medium goes.
            media: pixels or features, or what :meth:`encode` made of them.
            generating: rows will be continued, so corrected semantics pad on the left.

        Raises:
            ValueError: media and slots, or frames and their counts, do not match.
        """
        rules = self.config.rules
        layout = assembly.read_text(self.config, input_ids, attention_mask)
        num_media = len(media.kept_counts_V if isinstance(media, EncodedMedia) else media.frame_counts)
        row_V, slot_V = assembly.rows_of_media(layout, num_media, rules)
        if isinstance(media, Media):
            encoded = self.encode(media, row_V, layout.num_text_B, layout.budget_length_B)
        else:
            encoded = media
            if bool((layout.num_text_B > encoded.num_text_B).any()):
                raise ValueError(
                    f"{layout.num_text_B.tolist()} text tokens, but the media were encoded to leave room for "
                    f"{encoded.num_text_B.tolist()}; encode them again with a larger text_tokens"
                )
        question_BC = assembly.mean_question(layout, self.embed, labels, rules)
        visual = self.compress(encoded, question_BC[row_V.to(question_BC.device)])
        merged = assembly.merge(
            self.config.max_sequence_length,
            layout,
            self.embed,
            visual.embeds_LC,
            visual.counts_V,
            row_V,
            slot_V,
            labels=labels,
            with_mask=attention_mask is not None or not rules.outputs_follow_inputs,
            with_positions=position_ids is not None,
            pad_left=self.config.padding_side == "left" or (generating and not rules.outputs_follow_inputs),
        )
        return Sight(merged, encoded, visual)

    def _tower_features(self, tower: nn.Module, pixels: Tensor | None, features: Tensor | None, name: str) -> Tensor:
        dtype = self.frame_tokens.newline.dtype
        if features is not None:
            return features.to(self.frame_tokens.newline.device, dtype)
        if pixels is None:
            raise ValueError(f"no {name} input: give pixel_values_{name} or {name}_features")
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return tower(pixels).to(dtype)

    def _siglip_features(self, media: Media, keep_F: Tensor) -> Tensor:
        """SigLIP sees only the frames that are kept."""
        pixels, features = media.pixel_values_siglip, media.siglip_features
        if not bool(keep_F.all()):
            kept_F = keep_F.nonzero()[:, 0]
            if pixels is not None:
                pixels = pixels[kept_F.to(pixels.device)]
            if features is not None and len(features) != len(kept_F):
                features = features[kept_F.to(features.device)]
        return self._tower_features(self.towers.siglip, pixels, features, "siglip")


class LongVUForConditionalGeneration(AnsweringModel, LongVUPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """LongVU with its language model head; answers questions about images and videos."""

    official = "longvu_model.official"

    def __init__(self, config: LongVUConfig):
        super().__init__(config)
        self.model = LongVUModel(config)
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
        image_sizes: Tensor | None = None,
        is_video: Tensor | None = None,
        pixel_values_siglip: Tensor | None = None,
        pixel_values_dino: Tensor | None = None,
        siglip_features: Tensor | None = None,
        dino_features: Tensor | None = None,
        frame_times: Tensor | None = None,
        size_swapped: Tensor | None = None,
        preselected: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (float32), and the loss where labels are given.

        Args:
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` (-200) where a medium goes.
            attention_mask: (B, T), true for real tokens.
            labels: int64 (B, T), -100 where nothing is learned.
            frame_counts, image_sizes, is_video and the tensors after them: the media, see :class:`Media`.

        Returns:
            ``logits`` are those of the merged sequence, which is longer than ``input_ids``.
        """
        if frame_counts is not None and inputs_embeds is None:
            if input_ids is None or image_sizes is None or is_video is None:
                raise ValueError("media need input_ids, image_sizes and is_video beside frame_counts")
            media = Media(
                frame_counts,
                image_sizes,
                is_video,
                pixel_values_siglip,
                pixel_values_dino,
                siglip_features,
                dino_features,
                frame_times,
                size_swapped,
                preselected,
            )
            merged = self.model.see(input_ids, media, attention_mask, position_ids, labels).merged
            input_ids, inputs_embeds = None, merged.inputs_embeds
            attention_mask, position_ids, labels = merged.attention_mask, merged.position_ids, merged.labels
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
    def encode_video(self, media: Media, text_tokens: int) -> EncodedMedia:
        """Encodes the media of one row once, to be asked about many times.

        Args:
            text_tokens: the longest prompt, in text tokens, that will be asked; budgets leave room for it.

        Returns:
            What ``generate(input_ids, encoded=...)`` takes instead of pixels.
        """
        text_B = torch.tensor([text_tokens])
        # the published length counts the slot as a token
        budget_B = text_B + 1 if self.config.rules.text_length_by_pad_id else text_B
        return self.model.encode(media, torch.zeros(len(media.frame_counts), dtype=torch.long), text_B, budget_B)

    def seen(self, input_ids: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> MergedInputs | None:
        fields = {name: inputs.pop(name) for name in Media.__dataclass_fields__ if name in inputs}
        media = Media(**fields) if fields else inputs.pop("encoded", None)
        return None if media is None else self.model.see(input_ids, media, attention_mask, generating=True).merged
