"""A small model of text alone whose answers are lively: what the engine needs of a model, and its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from pipelines.store import FeatureStore
from pipelines.video_models import Prompt, VideoModel, WatchedMedia
from pipelines.video_models.base import Messages

CLASSES: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


class TextModel(VideoModel):
    """A decoder with random weights that are large enough for answers to wander through the vocabulary."""

    family: ClassVar[str] = "text"

    def __init__(self, backbone: str = "qwen2", max_length: int = 700) -> None:
        self.name = self.digest = backbone
        self.tokenizer = build_tiny_tokenizer("qwen", 600)
        config_class, model_class = CLASSES[backbone]
        torch.manual_seed(0)
        self.causal = model_class(
            config_class(
                vocab_size=len(self.tokenizer),
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        ).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in self.causal.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(noise * (1.5 / parameter.shape[-1] ** 0.5))
        self.decoder, self.lm_head = self.causal.model, self.causal.lm_head
        # Answers go on as long as they may; tests of endings set these.
        self.stop_strings = ()
        self.eos_token_ids = frozenset()
        self.max_length = max_length

    def watch(self, *_: Any, **__: Any) -> WatchedMedia:
        raise NotImplementedError("text only")

    def recall(self, store: FeatureStore, video: str | Path) -> WatchedMedia:
        raise NotImplementedError("text only")

    @torch.inference_mode()
    def prompt(self, messages: Messages, media: Sequence[WatchedMedia] = ()) -> Prompt:
        return self.of_ids(self.tokenizer(str(messages[0]["content"])).input_ids)

    @torch.inference_mode()
    def of_ids(self, ids: Sequence[int], prefix: int = 0) -> Prompt:
        """A prompt of token ids; the first ``prefix`` are said to be shared by all prompts that begin so."""
        embeds = self.decoder.embed_tokens(torch.tensor(list(ids)))
        key = repr(list(ids[:prefix])) if prefix else None
        return Prompt(embeds, 0, "text", len(ids), prefix_length=prefix, prefix_key=key)

    def random_ids(self, length: int, seed: int) -> list[int]:
        return torch.randint(0, 590, (length,), generator=torch.Generator().manual_seed(seed)).tolist()

    @torch.inference_mode()
    def greedy(self, prompt: Prompt, max_tokens: int) -> list[int]:
        """The oracle: the library's own generation, one prompt, no chunks."""
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        return self.causal.generate(
            inputs_embeds=prompt.embeds[None], attention_mask=mask, max_new_tokens=max_tokens, do_sample=False
        )[0].tolist()

    @torch.inference_mode()
    def logprobs(self, prompt: Prompt, ids: Sequence[int]) -> Tensor:
        """Log probabilities (n, V) before each of the ids that follow a prompt, by one pass over everything."""
        embeds = torch.cat([prompt.embeds, self.decoder.embed_tokens(torch.tensor(list(ids)))])
        logits = self.causal(inputs_embeds=embeds[None]).logits[0, len(prompt) - 1 : -1]
        return logits.float().log_softmax(-1)
