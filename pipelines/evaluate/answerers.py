"""Who answers: a local checkpoint or an endpoint, behind one interface.

An answerer sees the media of a piece of work once and is then asked any number of questions about them, from several
threads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.errors import JobStopped
from pipelines.evaluate.tasks.media import Shown


class Refused(Exception):
    """One question, or all questions about one video, that cannot be answered; the rest goes on.

    Args:
        cause: ``PromptTooLong``, ``TooLong``, ``Damaged``, ``NoFrames``, ``RequestRefused``, ``ServerError``,
            ``UnreadableReply`` or ``WorkerDied``.
    """

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause, self.message = cause, " ".join(message.split())


class EndpointGone(JobStopped):
    """An endpoint that does not answer, or refuses everybody; what is answered stays."""


@dataclass(frozen=True)
class Ask:
    """One question, ready to be asked.

    Args:
        text: what the user says after the media.
        options: what is compared in likelihood mode; empty: a reply is generated.
        seed: of sampling.
    """

    text: str
    options: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back: a text, or the options' log-likelihoods; and facts that are plain JSON values."""

    text: str | None = None
    option_scores: tuple[float, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Media that an answerer has looked at.

    Args:
        held: the answerer's own.
        facts: frames, seconds; plain JSON values, part of every answer.
        damage: what is wrong with a file of which only a part was seen.
    """

    held: Any
    facts: dict[str, Any] = field(default_factory=dict)
    damage: str | None = None


class Answerer(Protocol):
    """Answers questions about media."""

    def look(self, shown: Shown, sha256: str | None) -> Seen:
        """See the media of some questions, once.

        Args:
            sha256: of the video file; None without one.

        Raises:
            VideoError: a file cannot be used.
            ValueError: the frame policy does not fit the video.
            Refused: the answerer does not take such media.
        """

    def answer(self, seen: Seen, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply | Refused]]:
        """Replies as they come, each with the position of its question.

        Raises:
            JobStopped: nothing can be answered any more.
        """

    @property
    def count_tokens(self) -> Callable[[str], int] | None:
        """Of the model's tokenizer; None where it is not known."""

    def close(self) -> None:
        """Free what is held."""


@dataclass(frozen=True)
class LocalSettings:
    """How a checkpoint answers.

    Args:
        folder: of the checkpoint, on every node.
        overrides: fields of its configuration.
        store: URI of a feature store; the caller has compared the towers.
        deadline_s: seconds that decoding a video may take.
    """

    folder: str
    device: str
    dtype: str
    quantization: Any
    overrides: dict[str, float]
    store: str | None
    mode: str
    system: str
    reply_prefix: str
    max_new_tokens: int
    temperature: float
    top_p: float
    slots: int
    deadline_s: float
