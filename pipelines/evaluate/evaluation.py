"""The job: rows -> what is not answered yet -> workers -> judge -> scores -> report.

Everything that is answered is found before any media are read or a model is loaded; when nothing is left neither Ray
nor torch is started, and the results are those that are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.evaluate.answerers import LocalSettings
from pipelines.evaluate.answers import Answer, AnswerLog
from pipelines.evaluate.judge import judge_all
from pipelines.evaluate.outcomes import Outcome, outcome_of, to_judge, with_verdict
from pipelines.evaluate.preparation import Prepared
from pipelines.evaluate.publication import make_results, open_run, publish, published
from pipelines.evaluate.questions import Work, known_answer
from pipelines.evaluate.report import shown_score
from pipelines.evaluate.results import Results, score_name
from pipelines.evaluate.statistics import estimate
from pipelines.evaluate.tasks.base import Task
from pipelines.evaluate.worker import Assignment
from pipelines.progress import Progress
from pipelines.ray_session import ray_session
from pipelines.tracking import TrackedRun

TOO_MANY_FAILED_EXIT = 3
_METRICS_EVERY_S = 10.0


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Args:
        asked: questions that were asked in this run; 0: everything was there.
        judged: verdicts that were asked for in this run.
        exit_code: 0, or 3 when too many questions failed.
    """

    results: Results
    asked: int
    judged: int
    seconds: float
    tracked: str | None
    exit_code: int


def evaluate(
    prepared: Prepared, *, in_process: bool = False, before_asking: Callable[[], None] = lambda: None
) -> Evaluation:
    """Answer what is not answered, judge, score, report.

    Safe to kill at any time; the same call continues where it stopped.

    Args:
        in_process: answer in this process, without Ray.
        before_asking: called if there is anything to ask.

    Raises:
        UserError: the checkpoint cannot be used.
        JobStopped: an endpoint or the storage gave out; what is answered stays.
    """
    started_s, config = time.perf_counter(), prepared.config
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(AnswerLog(prepared.log_uri))
        judge_log = stack.enter_context(AnswerLog(prepared.verdicts_uri))
        answers, left = _recall(prepared, log)
        asked = sum(len(work.questions) for work in left)
        if left:
            before_asking()
        run = stack.enter_context(open_run(prepared)) if left else None
        if run is not None:
            answers |= {answer.row: answer for answer in _ask(prepared, left, answers, log, run, in_process)}
            log.refresh()
            log.merge()
        outcomes, judged = _judged(prepared, _outcomes(prepared, answers), judge_log)
        if judged:
            judge_log.merge()
        results = make_results(prepared, outcomes)
        if not published(results):
            run = run or stack.enter_context(open_run(prepared))
            publish(prepared, results, outcomes, run)
    results = Results.load(prepared.uri)
    too_many = results.summary["counts"]["failed"] > config.max_failed_fraction * len(prepared.rows)
    seconds = time.perf_counter() - started_s
    return Evaluation(results, asked, judged, seconds, run.place if run else None, TOO_MANY_FAILED_EXIT * too_many)


def _recall(prepared: Prepared, log: AnswerLog) -> tuple[dict[str, Answer], list[Work]]:
    answers: dict[str, Answer] = {}
    left = []
    for work in prepared.works:
        known, rest = _settled(prepared, work, log)
        answers |= {answer.row: answer for answer in known}
        if rest is not None:
            left.append(rest)
    return answers, left


def _settled(prepared: Prepared, work: Work, log: AnswerLog) -> tuple[list[Answer], Work | None]:
    """Answers that are there, under the ids of this benchmark's rows, and what is left to ask."""
    found, left = [], []
    for question in work.questions:
        answer = known_answer(work, question, prepared.terms, log, prepared.retry_before_s)
        if answer is None:
            left.append(question)
        else:
            found.append(dataclasses.replace(answer, row=question.row.id))
    return found, dataclasses.replace(work, questions=tuple(left)) if left else None


def _ask(
    prepared: Prepared, left: list[Work], known: dict[str, Answer], log: AnswerLog, run: TrackedRun, in_process: bool
) -> Iterator[Answer]:
    task = prepared.task
    total = sum(len(work.questions) for work in left)
    where = storage.shown(prepared.uri)
    _say(f"{total} questions about {len(left)} media to ask, {len(known)} answered before -> {where}")
    rows = {row.id: row for row in prepared.rows}
    partial = PartialScore(task, (outcome_of(task, rows[answer.row], "", answer) for answer in known.values()))
    # Many questions first: they take longest, and short ones then even out the end.
    works = sorted(left, key=lambda work: -len(work.questions))
    recorded_s = time.monotonic()
    with Progress("questions", total) as progress:
        for answers in _reports(prepared, works, log, in_process):
            for answer in answers:
                partial.add(outcome_of(task, rows[answer.row], "", answer))
            progress.add(str(partial), len(answers))
            if time.monotonic() - recorded_s > _METRICS_EVERY_S:
                recorded_s = time.monotonic()
                run.metrics(partial.metrics(), step=partial.settled)
            yield from answers


def _reports(prepared: Prepared, works: list[Work], log: AnswerLog, in_process: bool) -> Iterator[list[Answer]]:
    from pipelines.evaluate import runner

    config = prepared.config
    if in_process:
        yield from runner.answer_here(
            works, _assignment(prepared, device_of(prepared, None)), log, config.workers.videos
        )
        return
    import ray

    needed = config.workers.cpus * (config.workers.count or 1)
    with ray_session(needed):
        gpus = float(ray.cluster_resources().get("GPU", 0))
        place = runner.placement(config.workers, gpus, prepared.folder is not None)

        def settled(work: Work) -> tuple[list[Answer], Work | None]:
            log.refresh()
            return _settled(prepared, work, log)

        dealer = runner.Dealer(
            _assignment(prepared, device_of(prepared, place.gpus)), place, config.workers, settled, _say
        )
        yield from dealer.reports(works)


def device_of(prepared: Prepared, gpus: float | None) -> str:
    """cuda for a worker with a share of a GPU; in this process wherever there is one."""
    if prepared.folder is None:
        return "cpu"
    if gpus is None:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if gpus > 0 else "cpu"


def _assignment(prepared: Prepared, device: str) -> Assignment:
    config, terms = prepared.config, prepared.terms
    common: dict[str, Any] = {
        "system": terms.system,
        "reply_prefix": terms.reply_prefix,
        "max_new_tokens": terms.max_new_tokens,
        "temperature": terms.temperature,
        "top_p": terms.top_p,
        "deadline_s": config.media.deadline_s,
    }
    answerer: Any
    if prepared.folder is None:
        from pipelines.evaluate.endpoint_answerer import EndpointSettings

        assert config.endpoint is not None
        answerer = EndpointSettings(
            url=config.endpoint, model=config.model, requests=config.requests, form=config.media_form, **common
        )
    else:
        answerer = LocalSettings(
            folder=str(prepared.folder.resolve()),
            device=device,
            dtype=config.precision,
            quantization=config.quantization,
            overrides=prepared.overrides,
            store=_absolute(config.store),
            mode=terms.mode,
            slots=config.workers.slots,
            **common,
        )
    return Assignment(
        task=prepared.task,
        terms=terms,
        answerer=answerer,
        limits=config.media,
        answers=prepared.log_uri,
        made=str(Path(config.workdir).resolve() / "made-media"),
        store=_absolute(config.store),
        retry_before_s=prepared.retry_before_s,
        threads=config.workers.threads,
    )


def _absolute(place: str | None) -> str | None:
    """Workers have working directories of their own."""
    return None if place is None else storage.resolve(place)


def _outcomes(prepared: Prepared, answers: dict[str, Answer]) -> list[Outcome]:
    digests = {question.row.id: question.prompt_digest for work in prepared.works for question in work.questions}
    return [outcome_of(prepared.task, row, digests.get(row.id, ""), answers.get(row.id)) for row in prepared.rows]


def _judged(prepared: Prepared, outcomes: list[Outcome], log: AnswerLog) -> tuple[list[Outcome], int]:
    replies = to_judge(outcomes)
    judge = prepared.config.judge
    if not replies or judge is None:
        return outcomes, 0
    before = len(log.answers)
    places = {outcome.row.id: place for place, outcome in enumerate(outcomes)}
    partial = PartialScore(prepared.task, ())
    with Progress("verdicts", len(replies)) as progress:
        for verdict in judge_all(prepared.task, replies, judge, log, prepared.retry_before_s):
            place = places[verdict.row]
            outcomes[place] = with_verdict(outcomes[place], verdict)
            partial.add(outcomes[place])
            progress.add(str(partial))
    return outcomes, len(log.answers) - before


class PartialScore:
    """The score so far, for the bar."""

    def __init__(self, task: Task, outcomes: Iterable[Outcome]):
        self._name, self._scores, self._clusters = score_name(task), list[float](), list[str]()
        self._unparsed = self._failed = 0
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        if outcome.score is not None:
            self._scores.append(outcome.score)
            self._clusters.append(outcome.cluster)
        self._unparsed += outcome.status == "unparsed"
        self._failed += outcome.status == "failed" and outcome.cause != "Unjudged"

    @property
    def settled(self) -> int:
        """Questions so far."""
        return len(self._scores) + self._unparsed + self._failed

    def metrics(self) -> dict[str, float]:
        found = estimate(self._scores, self._clusters)
        return {f"so_far/{self._name}": found.value} if found.value is not None else {}

    def __str__(self) -> str:
        found = estimate(self._scores, self._clusters)
        value = "" if found.value is None else f"{self._name} {shown_score(self._name, found.as_json())} "
        return f"{value}{self._unparsed} unparsed {self._failed} failed"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
