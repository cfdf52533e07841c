"""What LongVU and its siblings share as models of the library: a language model that is given embeddings, and its head.

A family adds its visual path (``see``) and the media that its ``forward`` takes.

Shapes: B rows, T ids or positions, C model width.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from longvu_model.assembly import MergedInputs


class VisionLanguagePreTrained(PreTrainedModel):
    """What the library needs to know of the architecture."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "video", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class EmbeddingsModel:
    """A model without head, around ``language_model``; stands in front of the family's base class."""

    config: Any
    language_model: Any
    see: Any
    """The family's visual path: ids and media -> merged sequences."""

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.language_model.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def embed(self, ids: Tensor) -> Tensor:
        """Text embeddings (n, C) of ids (n,) from any device."""
        table = self.get_input_embeddings()
        embeds: Tensor = table(ids.to(next(table.parameters()).device))
        return embeds

    def learned_sequences(
        self, input_ids: Tensor, media: Any, attention_mask: Tensor, labels: Tensor
    ) -> list[MergedInputs]:
        """What is learned of samples with media: each row once, with its visual tokens; mask and labels are made.

        Args:
            input_ids, attention_mask, labels: (B, T).
            media: as the family's ``see`` takes them.
        """
        return [self.see(input_ids, media, attention_mask, labels=labels).merged]

    def forward(self, inputs_embeds: Tensor | None = None, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """The language model on embeddings (or plain text ids); see the family's ``see`` for media."""
        return self.language_model(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)


class AnsweringModel:
    """A model with head, around ``model``; stands in front of the family's base class, and ``GenerationMixin`` behind.

    The library (5.23) knows that a class can generate by finding that name among its own bases.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    official: ClassVar[str]
    """Module that reads the family's published checkpoints: ``is_published(source)`` and ``load(source, ...)``."""
    config: Any
    model: Any
    lm_head: nn.Linear
    loss_function: Any

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def predict(
        self, *, labels: Tensor | None = None, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Logits (float32) of ids or embeddings, and the loss where labels are given.

        Args:
            labels: int64 (B, T), -100 where nothing is learned.
            logits_to_keep: as in the library.
            **kwargs: of the language model.
        """
        outputs = self.model(**kwargs)
        hidden_BTC = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_BTC[:, kept]).float()
        loss = None
        if labels is not None:
            counted = {key: value for key, value in kwargs.items() if key == "num_items_in_batch"}
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **counted)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads one of our checkpoints, or a published one: then see ``load`` of the module :attr:`official`."""
        if pretrained_model_name_or_path is not None and kwargs.get("config") is None:
            official = import_module(cls.official)  # it needs the family's model
            if official.is_published(pretrained_model_name_or_path):
                return official.load(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """Continues each row; the ids returned are the new ones only, as when generating from embeddings.

        Takes the inputs of ``forward``, ``encoded`` from ``encode_video`` instead of pixels or features, and
        everything ``GenerationMixin.generate`` takes.
        """
        if input_ids is None:
            return super().generate(**kwargs)  # type: ignore[misc]
        mask = kwargs.pop("attention_mask", None)
        merged = self.seen(input_ids, mask, kwargs)
        if merged is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        else:
            inputs_embeds, mask = merged.inputs_embeds, merged.attention_mask
        if mask is not None:
            kwargs["attention_mask"] = mask.long()
        return super().generate(inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]

    def seen(self, input_ids: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> MergedInputs | None:
        """The merged sequence to be continued, or ``None`` without media; takes its own inputs out of ``inputs``."""
        raise NotImplementedError
