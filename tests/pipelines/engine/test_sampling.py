"""Tokens are drawn from the distribution asked for, each row from its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.engine import SamplingParams
from pipelines.engine.sampling import TokenSampler, choose
from tests.pipelines.engine.conftest import EngineMaker
from tests.pipelines.engine.text_model import TextModel

LOGITS = torch.tensor([2.0, 0.5, 1.5, -1.0, 0.0, 1.0])


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """The oracle, by the definition: the fewest most likely tokens that reach top_p, renormalised."""
    probs = (logits.double() / temperature).softmax(0)
    kept, total = [], 0.0
    for token in probs.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept.append(token)
        total += float(probs[token])
    allowed = torch.zeros_like(probs)
    allowed[kept] = probs[kept]
    return (allowed / allowed.sum()).numpy()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (2.0, 0.5), (1.0, 0.01)])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    rows, turns = 200, 40
    samplers = [TokenSampler(SamplingParams(temperature=temperature, top_p=top_p, seed=seed)) for seed in range(rows)]
    counts = np.zeros(len(LOGITS))
    for _ in range(turns):
        tokens, _ = choose(LOGITS.expand(rows, -1), samplers)
        counts += np.bincount(tokens, minlength=len(LOGITS))
    expected = nucleus(LOGITS, temperature, top_p)
    assert (counts[expected == 0] == 0).all()
    spread = np.sqrt(expected * (1 - expected) / (rows * turns))
    assert (np.abs(counts / (rows * turns) - expected) <= 5 * spread).all()


def test_rows_do_not_see_each_other() -> None:
    """Greedy and sampled rows, some with reports: each as if it were alone."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 50, generator=generator)
    params = [
        SamplingParams(temperature=row % 3, top_p=1.0 if row % 2 else 0.8, seed=row, logprobs=row % 4)
        for row in range(9)
    ]
    together = choose(logits, [TokenSampler(one) for one in params])
    for row, one in enumerate(params):
        tokens, reports = choose(logits[row : row + 1], [TokenSampler(one)])
        assert tokens[0] == together[0][row]
        assert reports[0] == together[1][row]
        if one.temperature == 0:
            assert tokens[0] == int(logits[row].argmax())


def test_seeded_answers_do_not_depend_on_neighbours(qwen: TextModel, start: EngineMaker) -> None:
    engine = start(qwen)
    prompts = [qwen.of_ids(qwen.random_ids(10 + seed, seed)) for seed in range(8)]
    asked = [SamplingParams(max_tokens=15, temperature=1.5, top_p=0.95, seed=seed) for seed in range(8)]
    alone = [engine.submit(*pair).result(60).token_ids for pair in zip(prompts, asked, strict=True)]
    greedy = [engine.submit(prompt) for prompt in prompts[:3]]
    together = [engine.submit(*pair) for pair in zip(prompts, asked, strict=True)]
    assert [generation.result(60).token_ids for generation in together] == alone
    assert [generation.result(60).token_ids[:20] for generation in greedy] == [
        qwen.greedy(prompt, 128)[:20] for prompt in prompts[:3]
    ]
    other = engine.submit(prompts[0], SamplingParams(max_tokens=15, temperature=1.5, seed=99)).result(60)
    assert other.token_ids != alone[0]
