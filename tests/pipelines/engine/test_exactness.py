"""An answer is the same alone, among others, after a neighbour left, and from a prefix that was there already."""

from __future__ import annotations

import random

import pytest
import torch

from pipelines.engine import Completion, Engine, SamplingParams
from tests.pipelines.engine.conftest import EngineMaker
from tests.pipelines.engine.text_model import TextModel

WAIT_S = 120


def logprobs(completion: Completion) -> torch.Tensor:
    return torch.tensor([token.logprob for token in completion.logprobs], dtype=torch.float64)


@pytest.mark.parametrize("backbone", ["qwen", "llama"])
def test_greedy_answers_equal_the_librarys_alone_and_together(
    backbone: str, start: EngineMaker, request: pytest.FixtureRequest
) -> None:
    """48 prompts of 1 to 400 positions, answers of different lengths, more of them than slots, in random order."""
    model: TextModel = request.getfixturevalue(backbone)
    rng = random.Random(0)
    lengths = [1, 2, 63, 64, 65, 127, 128, 129, 400, *(rng.randint(1, 300) for _ in range(39))]
    prompts = [model.of_ids(model.random_ids(length, seed)) for seed, length in enumerate(lengths)]
    limits = [rng.choice((1, 3, 12, 25)) for _ in prompts]
    oracle = [model.greedy(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    assert len({token for ids in oracle for token in ids}) > 100

    def ask(engine: Engine, number: int) -> Completion:
        return engine.submit(prompts[number], SamplingParams(max_tokens=limits[number], logprobs=1)).result(WAIT_S)

    engine = start(model)
    alone = [ask(engine, number) for number in range(len(prompts))]
    assert [completion.token_ids for completion in alone] == oracle
    order = rng.sample(range(len(prompts)), len(prompts))
    generations = {
        number: engine.submit(prompts[number], SamplingParams(max_tokens=limits[number], logprobs=1))
        for number in order
    }
    together = [generations[number].result(WAIT_S) for number in range(len(prompts))]
    assert [completion.token_ids for completion in together] == oracle
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(logprobs(one), logprobs(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", [1, 50, 64, 130])
def test_reused_prefix_changes_no_bit(prefix: int, qwen: TextModel, start: EngineMaker) -> None:
    shared = qwen.random_ids(prefix, 7)
    prompts = [qwen.of_ids(shared + qwen.random_ids(length, length), prefix) for length in (1, 9, 64, 100)]
    asked = SamplingParams(max_tokens=8, logprobs=3)
    fresh = [start(qwen).submit(prompt, asked).result(WAIT_S) for prompt in prompts]
    engine = start(qwen)
    reused = [engine.submit(prompt, asked).result(WAIT_S) for prompt in prompts]
    assert [completion.cached_tokens for completion in fresh] == [0] * 4
    assert [completion.cached_tokens for completion in reused] == [0] + [prefix] * 3
    assert [completion.logprobs for completion in reused] == [completion.logprobs for completion in fresh]
    assert engine.load().prefix_bytes[0] == prefix * 2 * 2 * 2 * 16 * 4


def test_first_questions_at_once_compute_the_prefix_once(qwen: TextModel, start: EngineMaker) -> None:
    shared = qwen.random_ids(200, 3)
    engine = start(qwen)
    generations = [engine.submit(qwen.of_ids([*shared, number], 200)) for number in range(6)]
    assert sorted(generation.result(WAIT_S).cached_tokens for generation in generations) == [0] + [200] * 5


def test_prefixes_spill_and_are_forgotten(qwen: TextModel, start: EngineMaker) -> None:
    """Room for one prefix in each tier: of three, the newest two are found again, with the same answer."""
    prefixes = [qwen.random_ids(100, seed) for seed in range(3)]
    one = 100 * 2 * 2 * 2 * 16 * 4
    engine = start(qwen, prefix_cache_bytes=one, prefix_spill_bytes=one)

    def ask(number: int) -> Completion:
        return engine.submit(qwen.of_ids([*prefixes[number], 5], 100), SamplingParams(max_tokens=5)).result(WAIT_S)

    first = [ask(number) for number in range(3)]
    assert engine.load().prefix_bytes == (one, one)
    again = [ask(number) for number in (1, 2, 0)]
    assert [completion.cached_tokens for completion in again] == [100, 100, 0]
    assert [completion.token_ids for completion in again] == [first[number].token_ids for number in (1, 2, 0)]


def test_prompt_that_is_all_prefix_is_taken_in_whole(qwen: TextModel, start: EngineMaker) -> None:
    prompt = qwen.of_ids(qwen.random_ids(30, 1), 30)
    engine = start(qwen)
    answers = [engine.submit(prompt, SamplingParams(max_tokens=4)).result(WAIT_S) for _ in range(2)]
    assert [answer.cached_tokens for answer in answers] == [0, 0]
    assert answers[0].token_ids == answers[1].token_ids == qwen.greedy(prompt, 4)


def test_long_prompts_are_taken_in_between_steps(
    qwen: TextModel, start: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one answer goes on, a prompt of ten chunks comes in: after each chunk there is a step."""
    engine = start(qwen)
    calls: list[str] = []
    for name in ("chunk", "step"):
        method = getattr(engine._runner, name)
        monkeypatch.setattr(
            engine._runner, name, lambda *given, name=name, method=method: calls.append(name) or method(*given)
        )
    later = None

    def ask_again(_: object) -> None:
        nonlocal later
        if later is None:
            later = engine.submit(qwen.of_ids(qwen.random_ids(640, 2)), SamplingParams(max_tokens=1))

    talker = engine.submit(qwen.of_ids(qwen.random_ids(5, 1)), SamplingParams(max_tokens=40), ask_again)
    talker.result(WAIT_S)
    assert later is not None
    later.result(WAIT_S)
    assert calls.count("chunk") == 11
    assert "chunk chunk" not in " ".join(calls[1:])


def test_answers_end_where_the_slot_ends(qwen: TextModel, start: EngineMaker) -> None:
    engine = start(qwen, max_length=40)
    prompt = qwen.of_ids(qwen.random_ids(30, 1))
    answer = engine.submit(prompt, SamplingParams(max_tokens=100)).result(WAIT_S)
    assert answer.finish_reason == "length"
    assert answer.token_ids == qwen.greedy(prompt, 11)
