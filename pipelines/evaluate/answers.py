"""Answers written ahead: each is durable before it counts, and found again by what was asked, not by who asked.

<folder>/<random>.jsonl            one or more answers, written as one object that is seen whole or not at all
         merged-<random>.jsonl     many such objects in one

A key covers the media, the prompt, the model and everything that decides a reply, so any run, of any name, takes up
what an earlier one has paid for. Any number of processes write to one folder; the first answer to a key is the one
that counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import queue
import secrets
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pipelines import storage
from pipelines.retry import retrying

_READERS = 16
_MERGED = "merged-"


@dataclass(frozen=True)
class Answer:
    """What became of one question: a reply, scores of its options, or the reason why there is neither."""

    key: str
    """Digest of all that was asked, see :func:`digest_of`."""
    row: str
    """The question's id, for people."""
    origin: str
    """Digest of the names and versions of the media files: as long as they stay, their content need not be read."""
    media: str
    """SHA-256 of the media's content; empty where there is none, or none could be read."""
    reply: str | None = None
    option_scores: tuple[float, ...] | None = None
    """Log-likelihood of each option, in the mode that asks for nothing else."""
    cause: str | None = None
    """Why the question failed: a class of ``VideoError`` or of :class:`pipelines.evaluate.answerers.Refused`."""
    message: str | None = None
    prompt: str | None = None
    """The text that was asked, where it cannot be made again without the media."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Tokens, kept frames, seconds, finish reason."""
    time_s: float = 0.0
    """When it was written, epoch seconds."""

    @property
    def failed(self) -> bool:
        return self.cause is not None


def digest_of(facts: Any) -> str:
    """32 hex digits of JSON values."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


class AnswerLog:
    """The answers in a folder or under a prefix. Thread-safe; use it as a context manager to write.

    Attributes:
        answers: by key, as of the last :meth:`refresh`, and those added since.
        media: by origin, the digests of media that were ever read.
    """

    def __init__(self, folder: str):
        self.folder = storage.resolve(folder)
        self.answers: dict[str, Answer] = {}
        self.media: dict[str, str] = {}
        self._read: set[str] = set()
        self._to_write: queue.SimpleQueue[tuple[Answer, threading.Event] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._problem: BaseException | None = None
        self.refresh()

    def refresh(self) -> None:
        """See what others have written since."""
        while new := [found.uri for found in storage.listing(self.folder) if found.uri not in self._read]:
            with ThreadPoolExecutor(_READERS) as readers:
                # An object that is gone was merged into another one, which the next listing has.
                for uri, data in zip(new, readers.map(_read_if_there, new), strict=True):
                    self._read.add(uri)
                    self._take(_parsed(data))

    def add(self, answer: Answer) -> None:
        """Write an answer; returns when it is durable. Answers that come together are written together.

        Raises:
            StorageError: it could not be written.
        """
        written = threading.Event()
        self._to_write.put((answer, written))
        written.wait()
        if self._problem is not None:
            raise self._problem
        self._take([answer])

    def merge(self, min_objects: int = 2) -> None:
        """Take all objects into one; those that come in between are left alone."""
        if len(self._read) < min_objects:
            return
        old = {found.uri for found in storage.listing(self.folder)} & self._read
        if len(old) < min_objects:
            return
        self._write(self.answers.values(), _MERGED)
        for uri in old:
            storage.remove(uri)

    def __enter__(self) -> Self:
        self._writer = threading.Thread(target=self._write_all, name="answers", daemon=True)
        self._writer.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._to_write.put(None)
        assert self._writer is not None
        self._writer.join()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            batch = [self._to_write.get()]
            while not self._to_write.empty():  # what came while the last object was written
                batch.append(self._to_write.get())
            waiting = [item for item in batch if item is not None]
            ended = len(waiting) < len(batch)
            try:
                if waiting and self._problem is None:
                    self._write([answer for answer, _ in waiting])
            except BaseException as error:
                self._problem = error
            for _, written in waiting:
                written.set()

    def _write(self, answers: Iterable[Answer], prefix: str = "") -> None:
        lines = "".join(json.dumps(dataclasses.asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        uri = storage.join(self.folder, f"{prefix}{secrets.token_hex(8)}.jsonl")
        retrying(lambda: storage.write_bytes(uri, lines.encode()))
        self._read.add(uri)

    def _take(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            known = self.answers.get(answer.key)
            if known is None or _counts_more(answer, known):
                self.answers[answer.key] = answer
            if answer.media:
                self.media[answer.origin] = answer.media


def _counts_more(one: Answer, other: Answer) -> bool:
    """A reply more than a failure, an earlier reply more than a later one, a later failure more than an earlier one."""
    if one.failed != other.failed:
        return other.failed
    return one.time_s > other.time_s if one.failed else one.time_s < other.time_s


def _read_if_there(uri: str) -> bytes:
    try:
        return retrying(lambda: storage.read_bytes(uri))
    except FileNotFoundError:
        return b""


def _parsed(data: bytes) -> Iterable[Answer]:
    for line in data.decode().splitlines():
        values = json.loads(line)
        scores = values["option_scores"]
        yield Answer(**values | {"option_scores": None if scores is None else tuple(scores)})
