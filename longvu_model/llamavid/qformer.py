"""Q-Former: learned queries read an image, guided by a text beside them (SEMANTICS section 2).

BERT with two additions: in every second layer the queries attend to the image, and queries and text have feed-forward
blocks of their own. Post-norm throughout; attention runs in both directions over queries and text together.

Shapes: N pairs of a text and an image, Q queries, L word pieces, S = Q + L, P image tokens, B width, E image width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from longvu_model.llamavid.config import LlamaVidConfig
from longvu_model.towers import Mlp


class Attention(nn.Module):
    """Multi-head attention with its residual and norm: ``norm(x + out(attention))``."""

    def __init__(self, width: int, source_width: int, num_heads: int, norm_eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x_NSB: Tensor, source_NRE: Tensor, visible_N11R: Tensor | None = None) -> Tensor:
        query, key, value = (
            projection(source).view(*source.shape[:2], self.num_heads, -1).transpose(1, 2)
            for projection, source in ((self.query, x_NSB), (self.key, source_NRE), (self.value, source_NRE))
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible_N11R)
        return self.norm(x_NSB + self.out(attended.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Feed-forward block with its residual and norm."""

    def __init__(self, width: int, hidden: int, activation: str, norm_eps: float):
        super().__init__()
        self.mlp = Mlp(width, hidden, activation)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.mlp(x))


class QFormerLayer(nn.Module):
    """One layer; ``sees_image`` adds the cross-attention of the queries."""

    def __init__(self, config: LlamaVidConfig, sees_image: bool):
        super().__init__()
        bert = config.qformer_config
        width, heads, eps = bert.hidden_size, bert.num_attention_heads, bert.layer_norm_eps
        self.attention = Attention(width, width, heads, eps)
        self.image_attention = Attention(width, bert.encoder_hidden_size, heads, eps) if sees_image else None
        self.query_feed = FeedForward(width, bert.intermediate_size, bert.hidden_act, eps)
        self.text_feed = FeedForward(width, bert.intermediate_size, bert.hidden_act, eps)

    def forward(self, x_NSB: Tensor, num_queries: int, visible_N11S: Tensor | None, image_NPE: Tensor) -> Tensor:
        x_NSB = self.attention(x_NSB, x_NSB, visible_N11S)
        query_NQB, text_NLB = x_NSB[:, :num_queries], x_NSB[:, num_queries:]
        if self.image_attention is not None:
            query_NQB = self.image_attention(query_NQB, image_NPE)
        query_NQB = self.query_feed(query_NQB)
        return torch.cat([query_NQB, self.text_feed(text_NLB)], dim=1) if text_NLB.shape[1] else query_NQB


class QFormer(nn.Module):
    """Queries, embeddings and layers."""

    def __init__(self, config: LlamaVidConfig):
        super().__init__()
        bert = config.qformer_config
        self.queries = nn.Parameter(torch.zeros(1, config.num_queries, bert.hidden_size))
        self.words = nn.Embedding(bert.vocab_size, bert.hidden_size, padding_idx=bert.pad_token_id)
        self.positions = nn.Embedding(bert.max_position_embeddings, bert.hidden_size)
        self.norm = nn.LayerNorm(bert.hidden_size, eps=bert.layer_norm_eps)
        self.layers = nn.ModuleList(
            QFormerLayer(config, sees_image=i % bert.cross_attention_frequency == 0)
            for i in range(bert.num_hidden_layers)
        )

    def forward(self, image_NPE: Tensor, text_ids_NL: Tensor, text_mask_NL: Tensor) -> Tensor:
        """What the queries read of each image for its text.

        Args:
            image_NPE: image tokens.
            text_ids_NL: int64 word pieces, padded on the right; L may be 0.
            text_mask_NL: bool, true for real ones.

        Returns:
            (N, Q, B).
        """
        *_, last_NSB = self.states(image_NPE, text_ids_NL, text_mask_NL)
        return last_NSB[:, : self.queries.shape[1]]

    def states(self, image_NPE: Tensor, text_ids_NL: Tensor, text_mask_NL: Tensor) -> Iterator[Tensor]:
        """Hidden states (N, S, B), queries first, of the embedding and of each layer."""
        num_queries, length = self.queries.shape[1], text_ids_NL.shape[1]
        text_NLB = self.words(text_ids_NL) + self.positions.weight[:length]
        x_NSB = self.norm(torch.cat([self.queries.expand(len(text_ids_NL), -1, -1), text_NLB], dim=1))
        visible_NS = functional.pad(text_mask_NL.bool(), (num_queries, 0), value=True)
        visible_N11S = visible_NS[:, None, None] if length else None
        yield x_NSB
        for layer in self.layers:
            x_NSB = layer(x_NSB, num_queries, visible_N11S, image_NPE)
            yield x_NSB
