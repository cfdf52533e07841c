"""Open answers, judged by a model behind an OpenAI-compatible endpoint; every verdict is written ahead, as replies are.

The judge's own words are kept. A verdict that cannot be read is asked for again, with another seed, a few times; then
the question failed, which is no score.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from pipelines.evaluate.answerers import Refused
from pipelines.evaluate.answers import Answer, AnswerLog, digest_of
from pipelines.evaluate.config import JudgeConfig
from pipelines.evaluate.endpoint import Endpoint
from pipelines.evaluate.tasks.base import Judged, Row, Task


@dataclass(frozen=True)
class Verdict:
    """What the judge said about a reply, and how it reads."""

    row: str
    judged: Judged
    words: str | None
    cause: str | None = None
    message: str | None = None


def judge_all(
    task: Task, replies: Sequence[tuple[Row, str]], config: JudgeConfig, log: AnswerLog, retry_before_s: float = 0.0
) -> Iterator[Verdict]:
    """Verdicts as they come; those that are in the log are not asked for.

    Raises:
        JobStopped: the judge's endpoint is gone.
    """
    left = []
    for row, reply in replies:
        known = _judge(task, row, reply, config, log, retry_before_s)
        if known is None:
            left.append((row, reply))
        else:
            yield known
    if not left:
        return
    endpoint = Endpoint(config.endpoint, config.model, config.requests)
    with ThreadPoolExecutor(config.requests.concurrency) as pool:
        going = [pool.submit(_judge, task, row, reply, config, log, retry_before_s, endpoint) for row, reply in left]
        try:
            for done in as_completed(going):
                verdict = done.result()
                assert verdict is not None, "there is an endpoint to ask"
                yield verdict
        finally:
            for future in going:
                future.cancel()
            endpoint.close()


def _judge(
    task: Task,
    row: Row,
    reply: str,
    config: JudgeConfig,
    log: AnswerLog,
    retry_before_s: float,
    endpoint: Endpoint | None = None,
) -> Verdict | None:
    """The first verdict that can be read, else the last; without an endpoint None where somebody has to be asked."""
    messages = task.judge_messages(row, reply)
    verdict: Verdict | None = None
    for seed in range(config.tries):
        key = _key(messages, config, seed)
        answer = log.answers.get(key)
        if answer is None or (answer.failed and answer.time_s < retry_before_s):
            if endpoint is None:
                return None
            answer = _asked(row, messages, config, endpoint, seed, key)
            log.add(answer)
        verdict = _verdict(task, row, reply, answer)
        if verdict.judged.status != "judge_failed" or answer.failed:
            break
    return verdict


def _asked(
    row: Row, messages: list[dict[str, str]], config: JudgeConfig, endpoint: Endpoint, seed: int, key: str
) -> Answer:
    try:
        done = endpoint.complete(messages, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed)
    except Refused as refused:
        return Answer(key, row.id, "", "", cause=refused.cause, message=refused.message, time_s=time.time())
    facts = {"served_model": done.model, "usage": done.usage}
    return Answer(key, row.id, "", "", reply=done.text, facts=facts, time_s=time.time())


def _verdict(task: Task, row: Row, reply: str, answer: Answer) -> Verdict:
    if answer.reply is None:
        return Verdict(row.id, Judged("judge_failed"), None, f"Judge{answer.cause}", answer.message)
    judged = task.judged(row, reply, answer.reply)
    if judged.status == "judge_failed":
        return Verdict(row.id, judged, answer.reply, "JudgeUnreadable", f"no verdict in {answer.reply[:200]!r}")
    return Verdict(row.id, judged, answer.reply)


def _key(messages: list[dict[str, str]], config: JudgeConfig, seed: int) -> str:
    settings = [config.endpoint, config.model, config.max_tokens, config.temperature, seed]
    return digest_of([messages, settings])
