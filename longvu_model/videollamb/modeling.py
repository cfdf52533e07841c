"""VideoLLaMB: two towers, scenes, the recurrent memory bridge and a language model, joined.

Read ``VideoLLaMBModel.see`` for the whole visual path in order. What each step computes is in its own file.

Media enter as pixels or as tower features (from the feature store), see :mod:`longvu_model.videollamb.sight`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast

from longvu_model import assembly
from longvu_model.assembly import MergedInputs
from longvu_model.videollamb.bridge import Bridge
from longvu_model.videollamb.compression import VisualTokens, compress, most_tokens, pool
from longvu_model.videollamb.config import IGNORE_INDEX, VideoLLaMBConfig
from longvu_model.videollamb.sight import EncodedMedia, Media, Sight
from longvu_model.videollamb.towers import ImageTower, TimeAttention, Towers
from longvu_model.vision_language import AnsweringModel, EmbeddingsModel, VisionLanguagePreTrained


class VideoLLaMBPreTrainedModel(VisionLanguagePreTrained):
    """Configuration and weight initialisation."""

    config_class = VideoLLaMBConfig
    config: VideoLLaMBConfig
    _no_split_modules = ["VisionBlock", "VideoBlock", "BridgeLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.text_config.initializer_range
        if isinstance(module, ImageTower):
            init.normal_(module.position, std=std)
            init.normal_(module.class_token, std=std)
        elif isinstance(module, TimeAttention):
            init.normal_(module.embedding, std=std)
        elif isinstance(module, Bridge):
            # Torch's own, as the release leaves it; the memory and the scene numbers begin with zeros.
            for linear in (part for part in module.modules() if isinstance(part, nn.Linear)):
                init.kaiming_uniform_(linear.weight, a=5**0.5)
                bound = linear.in_features**-0.5
                init.uniform_(linear.bias, -bound, bound)
            init.zeros_(module.first_memory)
            if module.scene_numbers is not None:
                init.zeros_(module.scene_numbers)


class VideoLLaMBModel(EmbeddingsModel, VideoLLaMBPreTrainedModel):
    """Everything but the language model head."""

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__(config)
        self.towers = Towers(config)
        self.towers.requires_grad_(False)  # frozen in the published recipe
        self.bridge = Bridge(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @property
    def needs_question(self) -> bool:
        """Whether visual tokens may depend on the question: they never do."""
        return False

    def plan(self, frames: int) -> int:
        """Visual tokens that a video of so many frames costs at most."""
        return most_tokens(self.config, frames)

    def features(self, media: Media) -> Tensor:
        """Pooled features of all frames, class token first: (F, 1 + P, D).

        Raises:
            ValueError: neither pixels nor features, or as many frames as the counts do not add up to.
        """
        given = media.pixel_values if media.features is None else media.features
        if given is None:
            raise ValueError("no media input: give pixel_values or features")
        counts_V = media.frame_counts.cpu()
        if len(given) != int(counts_V.sum()):
            raise ValueError(f"{len(given)} frames for frame_counts={counts_V.tolist()}")
        weight = self.bridge.first_memory
        if media.features is not None:
            features_FND = media.features.to(weight.device)
        else:
            trained = any(parameter.requires_grad for parameter in self.towers.parameters())
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features_FND = self.towers(given, counts_V, media.is_video.cpu())
        return pool(features_FND.to(weight.dtype), self.config.pool_grid)

    def compress(self, features_FND: Tensor, frame_counts_V: Tensor) -> VisualTokens:
        """Visual tokens of pooled features."""
        return compress(self.bridge, self.config, features_FND, frame_counts_V.cpu())

    def encode(self, media: Media) -> EncodedMedia:
        """Towers, scenes and bridge: everything that comes before the text."""
        return EncodedMedia(media.is_video.cpu(), self.compress(self.features(media), media.frame_counts))

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
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` or ``VIDEO_TOKEN_INDEX`` where a medium goes.
            media: pixels or features, or what :meth:`encode` made of them.
            generating: rows will be continued, so corrected semantics pad on the left.

        Raises:
            ValueError: media and slots, or frames and their counts, do not match.
        """
        encoded = self.encode(media) if isinstance(media, Media) else media
        with_positions = position_ids is not None
        merged = self._merge(
            input_ids, encoded, encoded.visual.embeds_LC, encoded.visual.counts_V, attention_mask, with_positions,
            labels, generating,
        )  # fmt: skip
        return Sight(merged, encoded, encoded.visual)

    def see_scenes(
        self, input_ids: Tensor, media: Media, attention_mask: Tensor | None, labels: Tensor
    ) -> tuple[list[MergedInputs], EncodedMedia]:
        """The text with the tokens of each scene in turn, for the per-scene loss: one batch for each scene.

        A medium with fewer scenes than another is in fewer batches; in the others its row has no labels.
        """
        encoded = self.encode(media)
        tokens_V = encoded.visual.scene_tokens_V
        batches = []
        for scene in range(max(len(tokens) for tokens in tokens_V)):
            shown_V = [tokens[min(scene, len(tokens) - 1)] for tokens in tokens_V]
            learned = labels.clone()
            for row in self._finished_rows(input_ids, attention_mask, [len(tokens) <= scene for tokens in tokens_V]):
                learned[row] = IGNORE_INDEX
            counts_V = torch.tensor([len(shown) for shown in shown_V])
            batches.append(
                self._merge(input_ids, encoded, torch.cat(shown_V), counts_V, attention_mask, False, learned, False)
            )
        return batches, encoded

    def learned_sequences(
        self, input_ids: Tensor, media: Media, attention_mask: Tensor, labels: Tensor
    ) -> list[MergedInputs]:
        """See :meth:`EmbeddingsModel.learned_sequences`; with the per-scene loss, each row once for each scene."""
        if not self.config.per_scene_loss:
            return super().learned_sequences(input_ids, media, attention_mask, labels)
        return self.see_scenes(input_ids, media, attention_mask, labels)[0]

    def _finished_rows(self, input_ids: Tensor, attention_mask: Tensor | None, finished_V: list[bool]) -> list[int]:
        layout = assembly.text_layout(input_ids, attention_mask)
        row_V, _ = assembly.rows_of_media(layout, len(finished_V), self.config.rules)
        return [int(row) for row, finished in zip(row_V, finished_V, strict=True) if finished]

    def _merge(
        self,
        input_ids: Tensor,
        encoded: EncodedMedia,
        visual_LC: Tensor,
        counts_V: Tensor,
        attention_mask: Tensor | None,
        with_positions: bool,
        labels: Tensor | None,
        generating: bool,
    ) -> MergedInputs:
        rules = self.config.rules
        layout = assembly.text_layout(input_ids, attention_mask)
        row_V, slot_V = assembly.rows_of_media(layout, len(counts_V), rules)
        self._check_kinds(layout, slot_V, encoded.is_video)
        return assembly.merge(
            self.config.max_sequence_length,
            layout,
            self.embed,
            visual_LC,
            counts_V,
            row_V,
            slot_V,
            labels=labels,
            with_mask=attention_mask is not None or not rules.outputs_follow_inputs,
            with_positions=with_positions,
            pad_left=self.config.padding_side == "left" or (generating and not rules.outputs_follow_inputs),
        )

    def _check_kinds(self, layout: assembly.TextLayout, slot_V: Tensor, is_video_V: Tensor) -> None:
        used_V = slot_V >= 0
        asked = layout.ids_BT.flatten()[slot_V[used_V]] == self.config.video_token_id
        if bool((asked != is_video_V[used_V]).any()):
            kinds = [["image", "video"][video] for video in is_video_V[used_V].long().tolist()]
            raise ValueError(
                f"media are {kinds}, the text has places for "
                f"{[['image', 'video'][video] for video in asked.long().tolist()]}: write <video> for a video"
            )


class VideoLLaMBForConditionalGeneration(AnsweringModel, VideoLLaMBPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """VideoLLaMB with its language model head; answers questions about images and videos."""

    official = "longvu_model.videollamb.official"

    def __init__(self, config: VideoLLaMBConfig):
        super().__init__(config)
        self.model = VideoLLaMBModel(config)
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
        is_video: Tensor | None = None,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (float32), and the loss where labels are given.

        Args:
            input_ids: int64 (B, T), ``IMAGE_TOKEN_INDEX`` (-200) or ``VIDEO_TOKEN_INDEX`` (-201) where a medium goes.
            attention_mask: (B, T), true for real tokens.
            labels: int64 (B, T), -100 where nothing is learned.
            frame_counts, is_video, pixel_values, features: the media, see :class:`Media`.

        Returns:
            ``logits`` are those of the merged sequence, which is longer than ``input_ids``; with the per-scene loss,
            those of the scenes' sequences one behind the other.
        """
        if frame_counts is not None and inputs_embeds is None:
            if input_ids is None or is_video is None:
                raise ValueError("media need input_ids and is_video beside frame_counts")
            media = Media(frame_counts, is_video, pixel_values, features)
            if labels is not None and self.config.per_scene_loss:
                return self._learn_scenes(input_ids, media, attention_mask, labels, **kwargs)
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

    def _learn_scenes(
        self, input_ids: Tensor, media: Media, attention_mask: Tensor | None, labels: Tensor, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """One mean over all learned positions of the sequences of all scenes."""
        batches, _ = self.model.see_scenes(input_ids, media, attention_mask, labels)
        logits, targets = [], []
        for merged in batches:
            assert merged.labels is not None, "they were given"
            states = self.model(inputs_embeds=merged.inputs_embeds, attention_mask=merged.attention_mask, **kwargs)
            logits.append(self.lm_head(states.last_hidden_state).float())
            # The label behind a sequence's last token is the next one's first, which is never learned.
            targets.append(functional.pad(merged.labels[:, 1:], (0, 1), value=IGNORE_INDEX))
        joined = torch.cat(logits, dim=1)
        loss = functional.cross_entropy(
            joined.flatten(0, 1), torch.cat(targets, dim=1).flatten(), ignore_index=IGNORE_INDEX
        )
        return CausalLMOutputWithPast(loss=loss, logits=joined)

    @torch.no_grad()
    def encode_video(self, media: Media) -> EncodedMedia:
        """Encodes media once, to be asked about many times: ``generate(input_ids, encoded=...)``."""
        return self.model.encode(media)

    def seen(self, input_ids: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> MergedInputs | None:
        fields = {name: inputs.pop(name) for name in Media.__dataclass_fields__ if name in inputs}
        media = Media(**fields) if fields else inputs.pop("encoded", None)
        return None if media is None else self.model.see(input_ids, media, attention_mask, generating=True).merged
