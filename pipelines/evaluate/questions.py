"""What is asked, and the key under which its answer is found again.

Questions about the same media are one piece of work, so that a video is decoded and encoded once for all of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.evaluate.answers import Answer, AnswerLog, digest_of
from pipelines.evaluate.config import MediaConfig
from pipelines.evaluate.tasks.base import Row, Task
from pipelines.evaluate.tasks.media import Clip


@dataclass(frozen=True)
class Terms:
    """Everything that decides a reply besides the media and the prompt."""

    model: str
    """Digest of the checkpoint, or URL and name of an endpoint's model."""
    frames: str
    """The frame policy, as text."""
    mode: str
    """generate, label or text."""
    system: str = ""
    reply_prefix: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    """The answerer's own: number format, thresholds, feature store, form of media."""

    def key(self, media: str, prompt_digest: str) -> str:
        """The key of one question."""
        return digest_of([media, prompt_digest, dataclasses.asdict(self)])


@dataclass(frozen=True)
class Question:
    """A row, and the digest of what is asked about it."""

    row: Row
    prompt_digest: str


@dataclass(frozen=True)
class Work:
    """Questions about the same media.

    Attributes:
        origin: digest of the names and versions of the files, and of the part that is shown.
        unread: stands for the media's digest where the media cannot be read: of ``origin`` and the limits set.
    """

    origin: str
    unread: str
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        """What people call the media."""
        row = self.questions[0].row
        return row.clip.path if row.clip else row.id


def make_work(task: Task, rows: Iterable[Row], limits: MediaConfig) -> list[Work]:
    """Group rows by what they show, in the order of the rows."""
    versions: dict[str, str] = {}
    groups: dict[str, list[Question]] = {}
    for row in rows:
        groups.setdefault(_origin(task, row, versions), []).append(Question(row, prompt_digest(task, row)))
    settings = limits.model_dump(exclude={"deadline_s"})
    return [Work(origin, digest_of([origin, settings]), tuple(found)) for origin, found in groups.items()]


def known_answer(
    work: Work, question: Question, terms: Terms, log: AnswerLog, retry_before_s: float = 0.0
) -> Answer | None:
    """The answer that is already there, found without reading any media; of failures only those of later."""
    for media in (log.media.get(work.origin), work.unread):
        if media is not None:
            answer = log.answers.get(terms.key(media, question.prompt_digest))
            if answer is not None and not (answer.failed and answer.time_s < retry_before_s):
                return answer
    return None


def media_digest(row: Row, files: Iterable[Path], sha256: Mapping[Path, str]) -> str:
    """What a row shows: the content of the files, and which part of them."""
    return digest_of([[sha256[file] for file in files], _part(row.clip), _part(row.still)])


def prompt_digest(task: Task, row: Row) -> str:
    """Digest of the text asked.

    Where that depends on the sampled frames, of everything that it is made of: the task's settings, the row, the
    content of its subtitles.
    """
    if not task.needs_times:
        return digest_of(task.prompt(row))
    subtitles = storage.sha256(storage.resolve(row.subtitles)) if row.subtitles else None
    return digest_of([task.settings(), row.question, row.options, subtitles])


def frame_policy(task: Task) -> str:
    """Which frames are shown, as text."""
    preset = task.preset
    parts = [f"the middles of {preset.segments} equal parts" if preset.segments else str(task.sampling)]
    return ", ".join(parts + ["clips' bounds ignored"] * (not preset.bounds))


def _origin(task: Task, row: Row, versions: dict[str, str]) -> str:
    """The frame policy is no part of it: it is one of the terms."""
    facts: list[Any] = []
    if type(task).shown is not Task.shown:  # media that the task makes, of whatever the row says
        details = json.dumps(row.details, default=str)
        facts.append([task.name, row.clip and row.clip.path, details, [_version(path) for path in _paths(row.details)]])
    for clip in (row.clip, row.still):
        if clip is not None and clip.path not in versions:
            versions[clip.path] = _version(clip.path)
        facts.append(clip and [dataclasses.asdict(clip), versions[clip.path]])
    return digest_of(facts)


def _paths(value: Any) -> Iterator[str]:
    """Absolute paths in a row's details."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _paths(vars(value))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _paths(part)
    elif isinstance(value, str) and os.path.isabs(value):
        yield value


def _version(path: str) -> str:
    """Changes when a file does; of a folder, when files come or go."""
    try:
        status = os.stat(path)
    except OSError:
        return storage.MISSING
    return f"{status.st_size}:{status.st_mtime_ns}"


def _part(clip: Clip | None) -> dict[str, Any] | None:
    return None if clip is None else {k: v for k, v in dataclasses.asdict(clip).items() if k != "path"}
