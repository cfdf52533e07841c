"""The training loop: what one worker does from the first step, or the last checkpoint, to the end.

Every worker runs this file; without Ray, one process does, and computes the same. Global batches come from the plan in
order. What is decided about a step (is its loss sound, should a checkpoint begin, does somebody have to stop) is
decided from values that all workers have exchanged, so all decide alike; and it depends on the cursor and the
checkpoint alone, so a run that is killed and continued is the same run. One thing is not: the checkpoint that a rewind
goes back to may be one that was written because somebody asked the run to stop, or by the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pipelines import storage
from pipelines.errors import JobStopped
from pipelines.retry import retrying
from pipelines.train import checkpoint, step_metrics
from pipelines.train.audit import Audit
from pipelines.train.checkpoint import Checkpoint, Progress
from pipelines.train.checkpoint_writer import CheckpointWriter
from pipelines.train.collate import collate
from pipelines.train.engine import SampleLoss, sample_losses
from pipelines.train.engine_state import CheckpointMismatch
from pipelines.train.evaluation import Evaluator
from pipelines.train.materials import Materials
from pipelines.train.prepared import Step, Unreadable
from pipelines.train.records import Recorder
from pipelines.train.sentinel import Event, Sentinel
from pipelines.train.step_metrics import GlobalStep, LocalStep
from pipelines.train.world import World

_UNREADABLE_WINDOW = 100  # steps
_LEAST_UNREADABLE = 20

NOTICES = ("", "stop", "preempted")
"""Why a run should end now: it should not; its owner wants it to; its machine will be taken away."""


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        cursor: global batches done, of ``num_steps``.
        checkpoint: URI of the newest one.
        notice: of :data:`NOTICES`.
        metrics: of the last step and the last evaluation.
        mlflow: where the run is recorded; None on ranks that do not record.
    """

    cursor: int
    num_steps: int
    checkpoint: str
    notice: str
    metrics: dict[str, float] = field(default_factory=dict)
    mlflow: str | None = None


class Halted(JobStopped):
    """The loss was out of the ordinary, and the policy says to stop."""


def train(materials: Materials, world: World, notice: Callable[[], str] = lambda: "") -> Outcome:
    """Train to the end of the plan, or until notice is given.

    Args:
        notice: asked at every step, on every rank; one of :data:`NOTICES`.

    Raises:
        Halted: see :mod:`pipelines.train.sentinel`.
        JobStopped: checkpoints cannot be written, another start of the run has begun, or too many samples cannot be
            read.
        CheckpointMismatch: the run's checkpoints are all damaged, or of another choice of trained parts.
    """
    trainer = Trainer(materials, world, notice)
    try:
        return trainer.run()
    except BaseException as error:
        trainer.close(error)
        raise


class Trainer:
    """State of the loop on one rank; see :func:`train`."""

    def __init__(self, materials: Materials, world: World, notice: Callable[[], str]) -> None:
        self._run, self._engine, self._plan = materials.run, materials.engine, materials.plan
        self._config, self._reader = materials.run.config, materials.reader
        self._world, self._notice = world, notice
        self._recorder = Recorder(self._run) if world.first else None
        heldout = materials.heldout.manifest.digest if materials.heldout else None
        digests = (self._run.plan_digest, self._config.digest(), self._run.model_digest)
        self._progress = Progress(0, *digests, world.size, heldout=heldout)
        newest = self._resume()
        self._sentinel = Sentinel(self._config.watch, self._progress.losses)
        self._refused = self._progress.num_refused
        self._sound = self._progress.cursor - 1 if self._progress.sound is None else self._progress.sound
        self._scores = dict(self._progress.scores)
        self._records: list[tuple[int, dict[str, float]]] = []
        self._events: list[str] = []
        self._unreadable = deque[tuple[float, int]](maxlen=_UNREADABLE_WINDOW)
        self._start = start = world.from_first(secrets.token_hex(4))
        self._writer = CheckpointWriter(self._run.checkpoints, start, world, newest, self._named, self._settled)
        self._audit = Audit(self._config.audit, start, world.rank)
        self._evaluator = None
        if materials.heldout is not None:
            self._evaluator = Evaluator(materials.heldout, self._engine, world, self._config.token_budget)
        self._stepped_s = self._saved_s = time.monotonic()

    def run(self) -> Outcome:
        """From where the run is to its end."""
        cursor, notice, metrics, scores = self._progress.cursor, "", dict[str, float](), dict[str, float]()
        if self._world.first:
            self._run.write(self._start)
        if not self._writer.uri:
            self._save(0)  # so that there is always one to go back to, and a wrong place shows at once
        if self._progress.held_back is not None:
            scores = self._evaluate(cursor)
            self._records.append((cursor, {**self._progress.held_back, **scores}))
        for step in self._reader.steps(self._plan, self._world.rank, self._world.size, cursor):
            self._writer.make_room(step.cursor, self._config.checkpoint.every_steps)
            told, metrics = self._step(step)
            cursor = step.cursor + 1
            notice = NOTICES[int(told.largest("notice"))]
            held_back = None
            if notice and self._evaluation_due(cursor) and cursor < self._plan.num_steps:
                evaluated, held_back = {}, metrics  # who has to go saves at once; the next start evaluates
            else:
                evaluated = self._evaluate(cursor)
                self._records.append((cursor, metrics | evaluated))
            scores = evaluated or scores
            due = cursor % self._config.checkpoint.spacing == 0 or bool(told["overdue"][0]) or bool(evaluated)
            if notice or due or cursor == self._plan.num_steps:
                self._save(cursor, held_back)
            if notice:
                break
        self._writer.wait()
        place = self.close()
        return Outcome(cursor, self._plan.num_steps, self._writer.uri, notice, metrics | scores, place)

    def close(self, error: BaseException | None = None) -> str | None:
        """Wait for the thread that writes; end the MLflow run."""
        with contextlib.suppress(JobStopped) if error else contextlib.nullcontext():
            self._writer.close()
        self._audit.close()
        return self._recorder.close(error) if self._recorder else None

    def _step(self, step: Step) -> tuple[GlobalStep, dict[str, float]]:
        """One global batch: gradient, judgement, update; what was exchanged and what is recorded."""
        engine, world = self._engine, self._world
        # A function of the step, not a state: it needs no saving, and no two ranks draw the same.
        torch.manual_seed(hash((self._config.seed, step.cursor, world.rank)))
        bins = [collate(members, engine.device, engine.settings.dtype) for members in step.bins]
        targets = int(world.exchange([step.target_tokens]).sum())
        results = engine.backward(bins, max(1, targets))
        samples = sample_losses(results)
        told = GlobalStep(world.exchange(self._told(step, samples, sum(result.num_tokens for result in results))))
        self._writer.advance(bool(told["written"].all()), float(told["committed"][0]))
        if told.total("unreadable"):
            self._note_unreadable(step.unreadable, f"step {step.cursor}")
        self._check_readable(step.cursor, told.total("unreadable"))

        loss = told.total("loss_sum") / max(1, targets)
        lr_factor = self._config.stage.lr_factor(step.cursor, self._plan.num_steps)
        event = self._sentinel.judge(step.cursor, loss) if targets else None
        if targets > 0 and event is None:
            grad_norm = engine.update(lr_factor)
            event = self._sentinel.judge_gradient(step.cursor, grad_norm)
        else:
            engine.discard()
            grad_norm = math.nan
        indices = [sample.index for members in step.bins for sample in members]
        self._audit.add(step.cursor, step.epoch, loss, indices, learned=event is None)
        if event is not None:
            self._refuse(event, samples)
        elif targets:
            self._sound = step.cursor
        flops = sum(self._plan[step.cursor].flops)
        metrics = {"loss": loss, "lr": self._config.stage.learning_rate * lr_factor, "targets": float(targets)}
        metrics |= {"grad_norm": grad_norm, "refused": float(event is not None)}
        return told, metrics | step_metrics.record(told, flops, self._config.workers.peak_tflops)

    def _told(self, step: Step, samples: Sequence[SampleLoss], tokens: int) -> list[float]:
        now_s = time.monotonic()
        every_s, (written, committed) = self._config.checkpoint.every_s, self._writer.state
        mine = LocalStep(
            sum(sample.loss_sum for sample in samples),
            now_s - self._stepped_s,
            step.stall_s,
            tokens,
            len(step.unreadable),
            written,
            committed,
            NOTICES.index(self._notice()),
            every_s is not None and now_s - self._saved_s > every_s,
            step_metrics.memory_bytes(self._engine.device),
            *step_metrics.by_modality(samples),
        )
        self._stepped_s = now_s
        return step_metrics.local_values(mine)

    def _evaluation_due(self, cursor: int) -> bool:
        due = cursor % self._config.evaluation.every_steps == 0 or cursor == self._plan.num_steps
        return due and self._evaluator is not None

    def _evaluate(self, cursor: int) -> dict[str, float]:
        """The held-out samples, if it is their turn."""
        if self._evaluator is None or not self._evaluation_due(cursor):
            return {}
        metrics, unreadable = self._evaluator()
        if self._note_unreadable(unreadable, f"evaluation at step {cursor}"):
            self._say(f"step {cursor}: its score is not compared with others, for samples are missing")
        else:
            self._scores[cursor] = metrics["heldout/loss"]
        self._say(f"step {cursor}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        return metrics

    def _refuse(self, event: Event, samples: Sequence[SampleLoss]) -> None:
        """Name who is to blame, and do what the policy says; the batch has changed nothing."""
        blamed = [sample for mine in self._world.gather(self._sentinel.responsible(samples)) for sample in mine]
        names = ", ".join(sample.sample_id for sample in self._sentinel.responsible(blamed)) or "no sample"
        self._events.append(f"step {event.cursor}: {event.reason}; because of {names}; {event.policy}")
        self._say(self._events[-1])
        self._refused += 1
        most = self._config.watch.most_refused
        if event.policy == "halt" or self._refused > most:
            why = "" if event.policy == "halt" else f", after {most} others (watch.most_refused)"
            way = "watch.non_finite=skip watch.spike=skip" if event.policy == "halt" else "a larger watch.most_refused"
            raise Halted(
                f"training halted at step {event.cursor}: {event.reason}{why}; because of {names}. Mend or remove the "
                f"samples, or continue with {way}"
            )
        if event.policy == "rewind":
            self._rewind()

    def _rewind(self) -> None:
        """Go back to the newest checkpoint whose weights have given a loss in order. One that was written between the
        update that spoiled the weights and the loss that shows it has not; nor has one that led here at once."""
        found = self._writer.go_back(self._sound, self._config.checkpoint.keep_last)
        self._load(found)
        self._sound = min(self._sound, found.cursor - 1)

    def _note_unreadable(self, unreadable: Sequence[Unreadable], when: str) -> bool:
        """Name the samples that ranks could not read; whether there are any. A collective."""
        found = [one for mine in self._world.gather(list(unreadable)) for one in mine]
        for one in found:
            self._events.append(f"{when}: left out {one.sample_id}: {one.cause}: {one.message}")
            self._say(self._events[-1])
        return bool(found)

    def _check_readable(self, cursor: int, unreadable: float) -> None:
        """Stop before an epoch is spent on media that have gone."""
        self._unreadable.append((unreadable, len(self._plan[cursor].samples)))
        left_out, planned = (int(sum(column)) for column in zip(*self._unreadable, strict=True))
        allowed = self._config.data.max_quarantined_fraction
        if left_out >= _LEAST_UNREADABLE and left_out > allowed * planned:
            raise JobStopped(
                f"{left_out} of the last {planned} samples could not be read, more than "
                f"data.max_quarantined_fraction={allowed:g} allows; the last ones are named above. Bring their media "
                f"back; the same command continues"
            )

    def _save(self, cursor: int, held_back: Mapping[str, float] | None = None) -> None:
        """Begin a checkpoint; wait for it where it is not to be written aside."""
        self._progress = dataclasses.replace(
            self._progress,
            cursor=cursor,
            world_size=self._world.size,
            scores=dict(self._scores),
            losses=tuple(self._sentinel.losses),
            sound=self._sound,
            records=tuple(self._records),
            events=tuple(self._events),
            num_refused=self._refused,
            held_back=held_back,
        )
        self._records, self._events = [], []
        self._writer.begin(self._engine, self._progress)
        if not self._config.checkpoint.asynchronous:
            self._writer.wait()
        self._saved_s = time.monotonic()

    def _resume(self) -> Checkpoint | None:
        """Go on from the newest checkpoint whose files are what was written; None where there is none.

        Damaged ones are deleted once there is a whole one, lest they count among the newest.
        """
        passed_over = []
        for found in self._world.from_first(checkpoint.finished(self._run.checkpoints) if self._world.first else None):
            damage = [one for one in self._world.gather(found.damage(self._world.rank, self._world.size)) if one]
            if damage:
                self._say(f"checkpoint of step {found.cursor} passed over: {damage[0]}")
                passed_over.append(found)
                continue
            self._load(found)
            heldout, scores = self._progress.heldout, found.progress.scores
            if heldout != found.progress.heldout:
                scores = {}  # of other samples
            self._progress = dataclasses.replace(found.progress, records=(), events=(), scores=scores, heldout=heldout)
            if self._recorder:
                self._recorder.repeat(found)
                for damaged in passed_over:
                    checkpoint.remove(damaged)
                checkpoint.remove_unfinished(self._run.checkpoints)
            self._say(f"continuing at step {found.cursor} of {self._plan.num_steps} from {storage.shown(found.uri)}")
            return found
        if passed_over:
            raise CheckpointMismatch(
                f"{storage.shown(self._run.checkpoints)}: all {len(passed_over)} checkpoints are damaged; bring "
                f"one back, or delete the folder to start over"
            )
        return None

    def _load(self, found: Checkpoint) -> None:
        with found.local_folder() as folder:
            self._engine.load(folder)

    def _named(self, progress: Progress) -> Progress:
        """In the thread that writes, on the first rank: before a commit."""
        assert self._recorder is not None
        if self._run.last_start() != self._start:
            raise JobStopped(f"another start of the run in {storage.shown(self._run.uri)} has begun since this one")
        return self._recorder.named(progress)

    def _settled(self, done: Checkpoint) -> None:
        """In the thread that writes, on the first rank: what follows a commit."""
        assert self._recorder is not None
        self._recorder.add(done)
        kept = self._config.checkpoint
        try:
            retrying(lambda: checkpoint.remove_superseded(self._run.checkpoints, kept.keep_last, kept.keep_best))
        except OSError as error:  # the next one will be rid of them
            self._say(f"old checkpoints could not be deleted: {error}")

    def _say(self, line: str) -> None:
        if self._world.first:
            sys.stderr.write(line + "\n")  # Ray Train repeats what is printed
            sys.stderr.flush()
