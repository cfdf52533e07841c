"""Stopping, cancelling, scoring, refusing, and what becomes of requests when the engine ends."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
import torch

from pipelines.engine import Delta, Engine, EngineFailed, EngineFull, SamplingParams
from pipelines.errors import UserError
from pipelines.video_models import PromptTooLong
from tests.pipelines.engine.conftest import EngineMaker
from tests.pipelines.engine.text_model import TextModel

WAIT_S = 120


class Gate:
    """Holds the engine's thread at the first delta of an answer until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: Delta) -> None:
        self.reached.set()
        assert self.opened.wait(WAIT_S)


def test_deltas_make_up_the_answer(qwen: TextModel, start: EngineMaker) -> None:
    heard: list[Delta] = []
    generation = start(qwen).submit(qwen.of_ids([1, 2, 3]), SamplingParams(max_tokens=20, logprobs=2), heard.append)
    deltas = list(generation)
    answer = generation.result(WAIT_S)
    assert deltas == heard
    assert "".join(delta.text for delta in deltas) == answer.text
    assert [token for delta in deltas for token in delta.token_ids] == answer.token_ids
    assert [report for delta in deltas for report in delta.logprobs] == answer.logprobs
    assert answer.completion_tokens == 20 and answer.prompt_tokens == 3
    assert 0 <= answer.seconds["queued"] <= answer.seconds["first_token"] <= answer.seconds["total"]


def test_logprobs_are_those_of_one_pass_over_everything(qwen: TextModel, start: EngineMaker) -> None:
    prompt = qwen.of_ids(qwen.random_ids(90, 4))
    answer = start(qwen).submit(prompt, SamplingParams(max_tokens=15, logprobs=4)).result(WAIT_S)
    expected = qwen.logprobs(prompt, answer.token_ids)
    for row, token, report in zip(expected, answer.token_ids, answer.logprobs, strict=True):
        top = row.topk(4)
        assert report.token_id == token == report.top[0][0]
        assert [number for number, _ in report.top] == top.indices.tolist()
        torch.testing.assert_close(torch.tensor([value for _, value in report.top]), top.values, rtol=1e-4, atol=1e-4)
        assert report.logprob == report.top[0][1]


def test_stop_texts_end_the_answer(qwen: TextModel, start: EngineMaker) -> None:
    """Any piece of the plain answer, used as a stop text, ends it just before."""
    engine, rng = start(qwen), random.Random(0)
    tried = 0
    for seed in range(12):
        prompt = qwen.of_ids(qwen.random_ids(20, seed))
        plain = engine.submit(prompt, SamplingParams(max_tokens=30)).result(WAIT_S)
        at = rng.randrange(len(plain.text) - 6)
        stop = plain.text[at : at + rng.randint(1, 6)]
        if "\ufffd" in stop:  # bytes that are no sign yet
            continue
        tried += 1
        cut = engine.submit(prompt, SamplingParams(max_tokens=30, stop=(stop, "never said"))).result(WAIT_S)
        assert cut.text == plain.text.split(stop)[0]
        assert cut.finish_reason == "stop"
        assert len(cut.token_ids) <= len(plain.token_ids)
    assert tried >= 4


def test_end_of_turn_is_not_part_of_the_answer(start: EngineMaker) -> None:
    model = TextModel("qwen2")
    prompt = model.of_ids([5, 6, 7])
    plain = start(model).submit(prompt, SamplingParams(max_tokens=12)).result(WAIT_S)
    model.eos_token_ids = frozenset({plain.token_ids[7]})
    answer = start(model).submit(prompt, SamplingParams(max_tokens=12)).result(WAIT_S)
    assert answer.finish_reason == "stop"
    assert answer.token_ids == plain.token_ids[: plain.token_ids.index(plain.token_ids[7])]


def test_cancelling_frees_the_slot_within_one_step(qwen: TextModel, start: EngineMaker) -> None:
    """With one slot: cancelled at its fifth token, an answer has five, and the one that waited is given."""
    engine = start(qwen, slots=1)
    heard: list[Delta] = []

    def listen(delta: Delta) -> None:
        heard.append(delta)
        if len(heard) == 5:
            talker.cancel()

    gate = Gate()
    first = engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=1), gate)
    talker = engine.submit(qwen.of_ids([1, 2]), SamplingParams(max_tokens=600), listen)
    waiter = engine.submit(qwen.of_ids([3, 4]), SamplingParams(max_tokens=4))
    gate.opened.set()
    first.result(WAIT_S)
    cancelled = talker.result(WAIT_S)
    assert cancelled.finish_reason == "cancelled"
    assert len(cancelled.token_ids) == len(heard) == 5
    assert waiter.result(WAIT_S).token_ids == qwen.greedy(qwen.of_ids([3, 4]), 4)


def test_cancelling_what_waits(qwen: TextModel, start: EngineMaker) -> None:
    engine, gate = start(qwen, slots=1), Gate()
    talker = engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=3), gate)
    assert gate.reached.wait(WAIT_S)
    waiter = engine.submit(qwen.of_ids([2]))
    waiter.cancel()
    gate.opened.set()
    assert waiter.result(WAIT_S).token_ids == []
    assert waiter.result().finish_reason == "cancelled"
    assert len(talker.result(WAIT_S).token_ids) == 3


def test_cancelled_task_cancels_its_answer(qwen: TextModel, start: EngineMaker) -> None:
    engine, gate = start(qwen, slots=1), Gate()

    async def client() -> None:
        generation = engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=600), gate)
        waiting = asyncio.ensure_future(asyncio.wrap_future(generation.future))
        await asyncio.to_thread(gate.reached.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0)  # the loop hands the cancellation on
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.to_thread(list, generation)

    asyncio.run(client())
    assert engine.submit(qwen.of_ids([2]), SamplingParams(max_tokens=2)).result(WAIT_S).completion_tokens == 2


def test_listener_that_raises_ends_its_own_answer_only(qwen: TextModel, start: EngineMaker) -> None:
    engine = start(qwen)

    def broken(_: Delta) -> None:
        raise OSError("client is gone")

    other = engine.submit(qwen.of_ids([2]), SamplingParams(max_tokens=30))
    with pytest.raises(OSError, match="client is gone"):
        engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=30), broken).result(WAIT_S)
    assert len(other.result(WAIT_S).token_ids) == 30
    assert engine.load().failed is None


def test_scores_are_sums_of_log_probabilities(qwen: TextModel, start: EngineMaker) -> None:
    engine = start(qwen)
    options = ["A", " the red square appears", "twice", "A"]
    prompt = qwen.of_ids(qwen.random_ids(150, 9), 130)
    talker = engine.submit(qwen.of_ids([1, 2]), SamplingParams(max_tokens=20))
    scores = engine.score(prompt, options, WAIT_S)
    for score, option in zip(scores, options, strict=True):
        ids = qwen.tokenizer(option).input_ids
        expected = qwen.logprobs(prompt, ids)[range(len(ids)), ids].sum()
        assert score == pytest.approx(float(expected), abs=1e-3)
    assert scores[0] == scores[3]
    assert talker.result(WAIT_S).token_ids == qwen.greedy(qwen.of_ids([1, 2]), 20)
    assert engine.score(prompt, options[:1], WAIT_S) == scores[:1]
    with pytest.raises(UserError, match="at least one token"):
        engine.score(prompt, ["A", ""])


def test_full_engine_refuses_and_says_when_to_come_back(qwen: TextModel, start: EngineMaker) -> None:
    engine, gate = start(qwen, slots=1, max_waiting_tokens=40), Gate()
    talker = engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=2), gate)
    assert gate.reached.wait(WAIT_S)
    asked = SamplingParams(max_tokens=8)
    waiting = [engine.submit(qwen.of_ids(qwen.random_ids(10, seed)), asked) for seed in range(2)]
    load = engine.load()
    assert (load.active, load.slots, load.waiting, load.waiting_tokens) == (1, 1, 2, 36)
    with pytest.raises(EngineFull, match="36 tokens are waiting, the limit is 40") as refused:
        engine.submit(qwen.of_ids([1] * 10), asked)
    assert refused.value.retry_after_s >= 1
    gate.opened.set()
    for generation in (talker, *waiting):
        generation.result(WAIT_S)
    assert engine.submit(qwen.of_ids([1] * 50), asked).result(WAIT_S).completion_tokens == 8


def test_prompts_that_fit_no_slot_are_refused(qwen: TextModel, start: EngineMaker) -> None:
    engine = start(qwen, max_length=50)
    with pytest.raises(PromptTooLong, match="51 positions"):
        engine.submit(qwen.of_ids([1] * 51))
    with pytest.raises(PromptTooLong):
        engine.score(qwen.of_ids([1] * 49), ["a long continuation"])
    with pytest.raises(UserError, match="max_length=9999: qwen2 takes at most 700"):
        start(qwen, max_length=9999)


def test_engine_that_dies_says_so_to_all(qwen: TextModel, start: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = start(qwen, slots=1), Gate()
    monkeypatch.setattr(engine._runner, "step", lambda _: 1 / 0)
    talker = engine.submit(qwen.of_ids([1]), None, gate)
    assert gate.reached.wait(WAIT_S)
    waiter = engine.submit(qwen.of_ids([2]))
    gate.opened.set()
    for generation in (talker, waiter):
        with pytest.raises(EngineFailed, match="division by zero") as failed:
            generation.result(WAIT_S)
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
    with pytest.raises(EngineFailed):
        list(waiter)
    assert "division by zero" in str(engine.load().failed)
    with pytest.raises(EngineFailed):
        engine.submit(qwen.of_ids([1]))
    with pytest.raises(EngineFailed):
        engine.score(qwen.of_ids([1]), ["A"])


def test_closing_fails_what_is_left(qwen: TextModel, start: EngineMaker) -> None:
    engine, gate = start(qwen, slots=1), Gate()
    talker = engine.submit(qwen.of_ids([1]), SamplingParams(max_tokens=600), gate)
    assert gate.reached.wait(WAIT_S)
    waiter = engine.submit(qwen.of_ids([2]))
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.opened.set()
    closing.join(WAIT_S)
    for generation in (talker, waiter):
        with pytest.raises(EngineFailed, match="closed"):
            generation.result(WAIT_S)
    engine.close()


def test_settings_name_the_bad_value() -> None:
    for bad, name in (
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -0.5}, r"temperature=-0.5"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"logprobs": 21}, "logprobs=21"),
        ({"stop": ("",)}, "stop="),
    ):
        with pytest.raises(UserError, match=name):
            SamplingParams(**bad)  # type: ignore[arg-type]


def test_many_threads_at_once(qwen: TextModel, start: EngineMaker) -> None:
    """Eight threads ask, read, cancel and score at random; every answer that is not cancelled is the oracle's."""
    engine: Engine = start(qwen, slots=4)
    oracle = {seed: qwen.greedy(qwen.of_ids(qwen.random_ids(20, seed)), 12) for seed in range(6)}
    wrong: list[object] = []

    def client(number: int) -> None:
        rng = random.Random(number)
        for _ in range(8):
            seed = rng.randrange(6)
            prompt = qwen.of_ids(qwen.random_ids(20, seed))
            if rng.random() < 0.2:
                engine.score(prompt, ["A", "BC"], WAIT_S)
                continue
            generation = engine.submit(prompt, SamplingParams(max_tokens=12))
            if rng.random() < 0.3:
                generation.cancel()
            answer = generation.result(WAIT_S)
            cut = len(answer.token_ids) if answer.finish_reason == "cancelled" else None
            if answer.token_ids != oracle[seed][:cut]:
                wrong.append((seed, answer))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong
    engine.close()
    assert engine.load().active == engine.load().waiting == 0
