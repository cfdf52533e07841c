"""Several samples in one row: what training runs instead of padded batches.

Each sample goes through its model's visual path by itself, so budgets, regimes and resolutions are those of the sample
alone. The merged sequences are laid end to end, positions start anew with each, and attention is computed sequence by
sequence: nothing a neighbour does can reach a sample, in float32 not even in the last bit. (On a CPU with several
threads an elementwise kernel may round an element at the edge of a thread's share differently.) The library's layers
run on the row as on any other, through its attention interface, with or without gradient checkpointing. Models of all
families are packed alike; what of a sample is learned is said by their ``learned_sequences``.

Call :func:`use_packed_attention` once on a model before packing with it.

Shapes: B rows of a sample, T ids of a row, S tokens of the packed row, C model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from longvu_model.config import IGNORE_INDEX
from longvu_model.vision_language import EmbeddingsModel

PACKED_SDPA = "longvu_packed_sdpa"
"""Attention of packed rows by one ``scaled_dot_product_attention`` for each sequence; SDPA as usual elsewhere."""

FLASH = "flash_attention_2"
"""Attention of packed rows by flash-attn's kernel for sequences of varying length; GPU, half precision."""

ROW_MULTIPLE = 32
"""Rows are filled up to a multiple of this many tokens. Kernels treat the last few rows of a product and the last few
elements of an array in their own way; with a filler behind them, no sample is ever these. GPUs prefer it, too."""


@dataclass(frozen=True)
class SampleInputs:
    """What one call of a model's ``see`` takes: one sample, or a published batch, whose rows share a regime."""

    input_ids: Tensor
    """int64 (B, T), a negative id where a medium goes."""
    labels: Tensor
    """int64 (B, T), ``IGNORE_INDEX`` where nothing is learned."""
    media: Any
    """The family's record of pixels or tower features, ``None`` for plain text."""
    attention_mask: Tensor | None = None
    """(B, T), true for real tokens; all are real by default."""


@dataclass(frozen=True)
class PackedRow:
    """Embedded sequences end to end."""

    embeds_SC: Tensor
    targets_S: Tensor
    """int64, the next token's label at each position, ``IGNORE_INDEX`` where nothing is predicted. On the CPU."""
    lengths: list[int]
    """Tokens of each sequence, in the order of the samples' rows."""
    sample_lengths: list[int]
    """Tokens of all sequences of each sample."""


def use_packed_attention(model: nn.Module, attention: str = PACKED_SDPA) -> None:
    """Prepare the language model of ``model`` (of any family, with or without head) for packed rows.

    Args:
        attention: :data:`PACKED_SDPA` or :data:`FLASH`. Unpacked calls, generation included, go on working.

    Raises:
        ValueError: another name.
        ImportError: flash-attn is not installed.
    """
    if attention not in (PACKED_SDPA, FLASH):
        raise ValueError(f"attention={attention!r}: use {PACKED_SDPA!r} or {FLASH!r}")
    AttentionInterface.register(PACKED_SDPA, _packed_sdpa)
    AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
    core = model if isinstance(model, EmbeddingsModel) else model.model
    core.language_model.set_attn_implementation(attention)  # type: ignore[union-attr, operator]


def embed_samples(model: EmbeddingsModel, samples: Sequence[SampleInputs]) -> PackedRow:
    """The visual path and the assembly of every sample; the sequences end to end.

    Raises:
        ValueError: no samples; or media and slots of a sample do not match.
    """
    if not samples:
        raise ValueError("an empty bin: there is nothing to pack")
    embeds, targets = list[Tensor](), list[Tensor]()
    lengths, sample_lengths = list[int](), list[int]()
    for sample in samples:
        first = len(lengths)
        for embeds_BTC, labels_BT, real_BT in _embed(model, sample):
            targets_BT = torch.full_like(labels_BT, IGNORE_INDEX)
            targets_BT[:, :-1] = labels_BT[:, 1:]
            # A row's last token predicts nothing: with padding on the right, the label behind it is padding's.
            for row_embeds, row_targets, row_real in zip(embeds_BTC, targets_BT, real_BT, strict=True):
                whole = bool(row_real.all())
                embeds.append(row_embeds if whole else row_embeds[row_real.to(row_embeds.device)])
                targets.append(row_targets if whole else row_targets[row_real])
                lengths.append(len(targets[-1]))
        sample_lengths.append(sum(lengths[first:]))
    return PackedRow(torch.cat(embeds), torch.cat(targets), lengths, sample_lengths)


def run_backbone(language_model: nn.Module, row: PackedRow) -> Tensor:
    """The language model without head on a packed row: hidden states (S, C) after the final norm.

    Raises:
        ValueError: the language model was not prepared with :func:`use_packed_attention`.
    """
    device, num_tokens = row.embeds_SC.device, len(row.embeds_SC)
    attention = language_model.config._attn_implementation  # type: ignore[union-attr]
    lengths = [*row.lengths, *filter(None, [-num_tokens % ROW_MULTIPLE])]
    embeds_SC = functional.pad(row.embeds_SC, (0, 0, 0, sum(lengths) - num_tokens))
    position_S = torch.cat([torch.arange(length) for length in lengths]).to(device)
    arguments: dict[str, Any]
    if attention == PACKED_SDPA:
        # A mask of four dimensions is passed through as it is, which keeps the library from building one of (S, S).
        unused = torch.empty(1, 1, 1, 1, dtype=torch.bool, device=device)
        arguments = {"attention_mask": unused, "segment_lengths": lengths}
    elif attention == FLASH:
        edges = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32).to(device)
        longest = max(lengths)
        arguments = {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, "max_length_q": longest, "max_length_k": longest}
    else:
        raise ValueError(f"attention {attention!r} would mix the samples of a packed row: call use_packed_attention")
    outputs = language_model(inputs_embeds=embeds_SC[None], position_ids=position_S[None], use_cache=False, **arguments)
    return outputs.last_hidden_state[0, :num_tokens]


def packed_forward(model: EmbeddingsModel, samples: Sequence[SampleInputs]) -> tuple[Tensor, PackedRow]:
    """Hidden states (S, C) of samples packed in one row, and the row, with the targets of every position."""
    row = embed_samples(model, samples)
    return run_backbone(model.language_model, row), row


def _embed(model: EmbeddingsModel, sample: SampleInputs) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Embeddings (B, T', C) of the merged rows; their labels and which are real, (B, T') on the CPU."""
    mask_BT = sample.attention_mask
    if mask_BT is None:
        mask_BT = torch.ones_like(sample.input_ids, dtype=torch.bool)
    if sample.media is None:
        limit = model.config.max_sequence_length
        embeds_BTC = model.embed(sample.input_ids[:, :limit])
        yield embeds_BTC, sample.labels[:, :limit].cpu(), mask_BT[:, :limit].bool().cpu()
        return
    for merged in model.learned_sequences(sample.input_ids, sample.media, mask_BT, sample.labels):
        assert merged.labels is not None and merged.attention_mask is not None, "both were given"
        yield merged.inputs_embeds, merged.labels.cpu(), merged.attention_mask.cpu()


def _packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segment_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment of (1, heads, S, width); the library's SDPA where nothing is packed."""
    if segment_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = (states.split(list(segment_lengths), dim=2) for states in (query, key, value))
    outputs = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1), None
