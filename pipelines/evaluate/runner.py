"""Work, dealt to workers as they become free: in Ray actors, or in this process.

A worker has a few videos in hand and gets another for each that it finishes, so a slow video holds up nobody else. One
that the cluster has no room for gets none, and is not waited for: the others do the work. A worker that dies is
replaced. What it had in hand is dealt again, without the questions whose answers it had written;
a video that was there each time a worker died is dealt alone, and given up when that happens too often.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pipelines.errors import JobStopped, UserError
from pipelines.evaluate.answers import Answer, AnswerLog
from pipelines.evaluate.config import WorkersConfig
from pipelines.evaluate.media import FileDigests
from pipelines.evaluate.questions import Question, Work
from pipelines.evaluate.worker import Assignment, Stopped, Worker, answer_work, make_answerer

_WAIT_S = 1.0

Report: TypeAlias = "list[Answer]"
Settled: TypeAlias = Callable[[Work], "tuple[list[Answer], Work | None]"]
"""The answers that a piece of work has in the log as it is now, and what is left of it."""


@dataclass(frozen=True)
class Placement:
    """Where workers run."""

    count: int
    cpus: float
    gpus: float


def placement(config: WorkersConfig, cluster_gpus: float, local_model: bool) -> Placement:
    """One worker per GPU where there are any and the model is local, else one.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    gpus = config.gpus if config.gpus is not None else float(cluster_gpus > 0 and local_model)
    if gpus and gpus * (config.count or 1) > cluster_gpus:
        raise UserError(
            f"workers.gpus={gpus:g} x workers.count={config.count or 1}: the cluster has {cluster_gpus:g} GPUs; "
            f"ask for fewer"
        )
    return Placement(config.count or (max(1, int(cluster_gpus // gpus)) if gpus else 1), config.cpus, gpus)


def answer_here(works: Iterable[Work], assignment: Assignment, log: AnswerLog, videos: int) -> Iterator[Report]:
    """Answer in this process, so many videos at a time; a report for each piece of work."""
    answerer, digests = make_answerer(assignment), FileDigests(assignment.store)
    pool = ThreadPoolExecutor(videos)

    def answered(work: Work) -> Report:
        return list(answer_work(work, assignment, answerer, log, digests))

    left, going = deque(works), set[Future[Report]]()
    try:
        while left or going:
            while left and len(going) < videos:
                going.add(pool.submit(answered, left.popleft()))
            done, going = wait(going, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        answerer.close()


@dataclass(eq=False)
class _Hand:
    """A worker and what it has in hand.

    Args:
        arrival: a call that returns when the worker runs; None afterwards.
    """

    actor: Any
    arrival: Any
    works: dict[Any, Work] = field(default_factory=dict)

    @property
    def calls(self) -> list[Any]:
        return [*self.works, *([] if self.arrival is None else [self.arrival])]


class Dealer:
    """Deals work to Ray actors; iterate once over :meth:`reports`.

    Args:
        settled: what became of a dead worker's work.
        say: told about workers that died.
    """

    def __init__(
        self,
        assignment: Assignment,
        place: Placement,
        config: WorkersConfig,
        settled: Settled,
        say: Callable[[str], None] = lambda line: None,
    ):
        import ray

        self._ray, self._config, self._settled, self._say = ray, config, settled, say
        self._assignment = ray.put(assignment)
        self._remote = ray.remote(Worker).options(
            num_cpus=place.cpus, num_gpus=place.gpus, max_concurrency=config.videos + 1, max_restarts=0
        )
        self._count = place.count
        self._deaths: Counter[str] = Counter()
        self._deaths_in_a_row = 0

    def reports(self, works: Sequence[Work]) -> Iterator[Report]:
        """Answers of each piece of work, as they come.

        Raises:
            UserError: the checkpoint cannot be used.
            JobStopped: nothing can be answered any more.
        """
        lost = self._ray.exceptions
        left = deque(works)
        hands = [self._hire() for _ in range(min(self._count, len(works)))]
        try:
            while left or any(hand.works for hand in hands):
                for hand in hands:
                    self._deal(hand, left)
                refs = [ref for hand in hands for ref in hand.calls]
                ready, _ = self._ray.wait(refs, num_returns=1, timeout=_WAIT_S)
                for ref in ready:
                    holding = [hand for hand in hands if ref in hand.calls]
                    if not holding:  # of a worker whose death was noticed by another of its calls
                        continue
                    hand = holding[0]
                    try:
                        report = self._ray.get(ref)
                    except (lost.RayActorError, lost.OutOfMemoryError, lost.NodeDiedError) as error:
                        hands[hands.index(hand)] = self._hire()
                        yield from self._bury(hand, left, error)
                        continue
                    if ref == hand.arrival:
                        hand.arrival = None
                        continue
                    if isinstance(report, Stopped):
                        raise _raised(report)
                    del hand.works[ref]
                    self._deaths_in_a_row = 0
                    yield report
        finally:
            for hand in hands:
                self._ray.kill(hand.actor)

    def _hire(self) -> _Hand:
        actor: Any = self._remote.remote(self._assignment)
        return _Hand(actor, actor.__ray_ready__.remote())

    def _deal(self, hand: _Hand, left: deque[Work]) -> None:
        """Fill a hand; what was there when workers died goes to a worker that has nothing else."""
        while left and hand.arrival is None and len(hand.works) < self._config.videos:
            suspect = self._deaths[left[0].origin] > 1
            if hand.works and (suspect or any(self._deaths[work.origin] > 1 for work in hand.works.values())):
                return
            work = left.popleft()
            hand.works[hand.actor.answer.remote(work)] = work

    def _bury(self, dead: _Hand, left: deque[Work], error: Exception) -> Iterator[Report]:
        self._ray.kill(dead.actor)  # one that cannot be reached may still be asking
        self._say(f"a worker died ({' '.join(str(error).split())[:200]}); what it had in hand is dealt again")
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > self._config.attempts:
            raise JobStopped(
                f"{self._deaths_in_a_row} workers died one after the other before they had answered anything: look "
                f"into Ray's logs; what is answered stays, and the same command continues"
            )
        for work in dead.works.values():
            self._deaths[work.origin] += 1
            answers, rest = self._settled(work)
            if answers:
                self._deaths_in_a_row = 0
                yield answers
            if rest is not None and self._deaths[work.origin] < self._config.attempts:
                left.appendleft(rest)
            elif rest is not None:
                self._deaths_in_a_row = 0
                yield [_given_up(rest, question, self._config.attempts) for question in rest.questions]


def _given_up(work: Work, question: Question, deaths: int) -> Answer:
    """Not written: the next run tries again."""
    message = f"{work.name}: {deaths} workers died over it"
    return Answer("", question.row.id, work.origin, "", cause="WorkerDied", message=message, time_s=time.time())


def _raised(stopped: Stopped) -> UserError:
    error = JobStopped if stopped.exit_code == JobStopped.exit_code else UserError
    return error(stopped.message)
