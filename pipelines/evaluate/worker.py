"""One worker: an answerer, the log of answers, and the questions about one video after the other.

:func:`answer_work` is all there is to it; the actor only carries it to where Ray wants it. Answers are durable before
they are reported, so whatever dies, what was reported is there, and what is there is not asked again.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longvu_model.video.errors import Missing, VideoError
from pipelines.errors import UserError
from pipelines.evaluate.answerers import Answerer, Ask, LocalSettings, Refused, Seen
from pipelines.evaluate.answers import Answer, AnswerLog, digest_of
from pipelines.evaluate.config import MediaConfig
from pipelines.evaluate.media import FileDigests, check_duration
from pipelines.evaluate.questions import Question, Terms, Work, media_digest
from pipelines.evaluate.tasks.base import Row, Task
from pipelines.evaluate.tasks.media import Shown

if TYPE_CHECKING:
    from pipelines.evaluate.endpoint_answerer import EndpointSettings


@dataclass(frozen=True)
class Assignment:
    """What all workers of a run are given.

    Args:
        answers: folder or prefix of the log.
        made: local folder for media that are made first.
    """

    task: Task
    terms: Terms
    answerer: LocalSettings | EndpointSettings
    limits: MediaConfig
    answers: str
    made: str
    store: str | None = None
    retry_before_s: float = 0.0
    threads: int | None = None


def make_answerer(assignment: Assignment) -> Answerer:
    """Load the checkpoint, or connect to the endpoint.

    Raises:
        UserError: no such checkpoint.
    """
    from pipelines.evaluate.endpoint_answerer import EndpointAnswerer, EndpointSettings

    if isinstance(assignment.answerer, EndpointSettings):
        return EndpointAnswerer(assignment.answerer)
    import torch

    from pipelines.evaluate.local_answerer import LocalAnswerer

    if assignment.threads is not None:
        torch.set_num_threads(assignment.threads)
    _quiet()
    return LocalAnswerer(assignment.answerer)


def answer_work(
    work: Work, assignment: Assignment, answerer: Answerer, log: AnswerLog, digests: FileDigests
) -> Iterator[Answer]:
    """Answer the questions about one video; each answer is durable when it is yielded.

    Raises:
        JobStopped: the endpoint, or the storage of the answers, cannot be used any more.
    """

    def settled(media: str, questions: Sequence[Question], content: str, **values: Any) -> Iterator[Answer]:
        key = assignment.terms.key(media, questions[0].prompt_digest)
        answer = Answer(key, questions[0].row.id, work.origin, content, time_s=time.time(), **values)
        log.add(answer)
        yield from (dataclasses.replace(answer, row=question.row.id) for question in questions)

    media, left = "", _by_prompt(work)
    try:
        shown = assignment.task.shown(work.questions[0].row, Path(assignment.made))
        media = _media(work, shown, digests)
        for prompt in list(left):
            known = log.answers.get(assignment.terms.key(media, prompt))
            if known is not None and not (known.failed and known.time_s < assignment.retry_before_s):
                yield from (dataclasses.replace(known, row=question.row.id) for question in left.pop(prompt))
        if not left:
            return
        seen = _look(shown, assignment, answerer, digests)
        asks = [_ask(questions[0].row, media, shown, assignment, answerer) for questions in left.values()]
    except (VideoError, Refused, ValueError) as error:
        if isinstance(error, UserError):
            raise
        cause, message = _cause(error)
        for questions in left.values():
            yield from settled(work.unread, questions, media, cause=cause, message=message)
        return
    groups = list(left.values())
    for position, outcome in answerer.answer(seen, asks):
        text = asks[position].text if assignment.task.needs_times else None
        if isinstance(outcome, Refused):
            values: dict[str, Any] = {"cause": outcome.cause, "message": outcome.message}
        else:
            facts = {**seen.facts, **outcome.facts, "damage": seen.damage}
            values = {"reply": outcome.text, "option_scores": outcome.option_scores, "facts": facts}
        yield from settled(media, groups[position], media, prompt=text, **values)


def _by_prompt(work: Work) -> dict[str, list[Question]]:
    """Benchmarks repeat questions; each is asked once."""
    found: dict[str, list[Question]] = {}
    for question in work.questions:
        found.setdefault(question.prompt_digest, []).append(question)
    return found


def _media(work: Work, shown: Shown, digests: FileDigests) -> str:
    files = [file for file in (shown.video, shown.still) if file is not None]
    try:
        return media_digest(work.questions[0].row, files, {file: digests[file] for file in files})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(f"{error.filename}: no such file") from None


def _look(shown: Shown, assignment: Assignment, answerer: Answerer, digests: FileDigests) -> Seen:
    limits = assignment.limits
    if shown.video is not None:
        check_duration(shown.video, shown.sampling.start_s, shown.sampling.end_s, limits.max_duration_s)
    seen = answerer.look(shown, digests[shown.video] if shown.video is not None else None)
    if seen.damage is not None and limits.damaged == "fail":
        raise Refused("Damaged", f"{shown.video}: {seen.damage}; media.damaged=ask asks about what there is")
    return seen


def _ask(row: Row, media: str, shown: Shown, assignment: Assignment, answerer: Answerer) -> Ask:
    task, mode = assignment.task, assignment.terms.mode
    times_s = shown.times_s() if task.needs_times else ()
    text = task.prompt(row, times_s, answerer.count_tokens)
    options = () if mode == "generate" else tuple(row.labels) if mode == "label" else row.options
    seed = int(digest_of([assignment.terms.seed, media, text])[:7], 16)
    return Ask(text, options, seed)


def _cause(error: Exception) -> tuple[str, str]:
    if isinstance(error, VideoError):
        return error.code, error.message
    if isinstance(error, Refused):
        return error.cause, error.message
    # The frame policy does not fit: no frame in the clip, no frame rate stated.
    return "NoFrames", " ".join(str(error).split())


def _quiet() -> None:
    """What libraries say while loading would come between the driver's lines, once per worker."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@dataclass(frozen=True)
class Stopped:
    """Why a worker does not go on, as a value: Ray would turn an exception into pages of traceback."""

    message: str
    exit_code: int


class Worker:
    """A Ray actor; several of its calls run at a time."""

    def __init__(self, assignment: Assignment):
        self._assignment = assignment
        self._answerer: Answerer | None = None
        self._lock = threading.Lock()

    def answer(self, work: Work) -> list[Answer] | Stopped:
        """Answers to all questions of a piece of work."""
        try:
            with self._lock:
                if self._answerer is None:
                    self._log = AnswerLog(self._assignment.answers).__enter__()
                    self._digests = FileDigests(self._assignment.store)
                    self._answerer = make_answerer(self._assignment)
            return list(answer_work(work, self._assignment, self._answerer, self._log, self._digests))
        except UserError as error:
            return Stopped(str(error), error.exit_code)
