"""From logits to tokens: all rows at once on the device, each by its own parameters and its own generator.

A row's token depends on its logits and its generator alone. The generators are on the host and give one uniform number
per token; the device inverts each row's cumulative distribution with it, so a step costs one transfer each way.

Shapes: R rows, V vocabulary, N likeliest tokens reported.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.engine.generation import TokenLogprob
from pipelines.engine.settings import SamplingParams


class TokenSampler:
    """Parameters and random generator of one request."""

    def __init__(self, params: SamplingParams) -> None:
        self.temperature, self.top_p, self.logprobs = params.temperature, params.top_p, params.logprobs
        self._random = random.Random(params.seed)

    def draw(self) -> float:
        """The next number in [0, 1); nothing is drawn for a greedy token."""
        return self._random.random() if self.temperature > 0 else 0.0


def choose(logits_RV: Tensor, samplers: Sequence[TokenSampler]) -> tuple[list[int], list[TokenLogprob | None]]:
    """A token for each row, and what there is to report about it.

    Args:
        logits_RV: any float type.
        samplers: one per row.
    """
    logits_RV = logits_RV.float()
    tokens_R = logits_RV.argmax(1)
    if any(sampler.temperature > 0 for sampler in samplers):
        tokens_R = torch.where(*_sampled(logits_RV, samplers), tokens_R)
    count = max(sampler.logprobs for sampler in samplers)
    if not count:
        return tokens_R.tolist(), [None] * len(samplers)
    logprobs_RV = logits_RV.log_softmax(1)
    own_R1 = logprobs_RV.gather(1, tokens_R[:, None])
    top = logprobs_RV.topk(count, dim=1)
    # One transfer; ids below 2**53 are exact in float64.
    report = torch.cat([tokens_R[:, None].double(), own_R1, top.indices.double(), top.values], dim=1).tolist()
    tokens = [int(row[0]) for row in report]
    return tokens, [_report(row, count, sampler.logprobs) for row, sampler in zip(report, samplers, strict=True)]


def _sampled(logits_RV: Tensor, samplers: Sequence[TokenSampler]) -> tuple[Tensor, Tensor]:
    """Which rows are sampled, and a sampled token for every row: bool (R,), int64 (R,)."""
    settings = [(sampler.temperature, sampler.top_p, sampler.draw()) for sampler in samplers]
    temperature_R, top_p_R, draw_R = torch.tensor(settings, dtype=torch.float64).to(logits_RV.device).unbind(1)
    hot_R = temperature_R > 0
    scale_R1 = torch.where(hot_R, temperature_R, 1.0)[:, None]
    probs_RV, order_RV = (logits_RV / scale_R1).softmax(1).sort(stable=True, dim=1, descending=True)
    before_RV = probs_RV.cumsum(1) - probs_RV
    kept_RV = torch.where(before_RV < top_p_R[:, None], probs_RV, 0.0)
    sums_RV = kept_RV.cumsum(1)
    place_R = (sums_RV <= draw_R[:, None] * sums_RV[:, -1:]).sum(1)
    last_kept_R = (kept_RV > 0).sum(1) - 1
    return hot_R, order_RV.gather(1, torch.minimum(place_R, last_kept_R)[:, None])[:, 0]


def _report(row: list[float], count: int, wanted: int) -> TokenLogprob | None:
    if not wanted:
        return None
    ids, values = row[2 : 2 + wanted], row[2 + count : 2 + count + wanted]
    return TokenLogprob(int(row[0]), row[1], tuple(zip(map(int, ids), values, strict=True)))
