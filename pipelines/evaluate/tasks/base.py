"""What a benchmark is: rows, what is asked about each, and how a reply is scored.

A task reads the benchmark's files as they are distributed and knows its published prompts, frame policies and metrics.
It calls no model and decodes no video: whether media are there and whole is found out by whoever asks.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from longvu_model.video.sampling import FrameSampling
from pipelines.config import Config
from pipelines.errors import UserError
from pipelines.evaluate.tasks.media import Clip, Shown, show
from pipelines.evaluate.tasks.records import find_file

Kind = Literal["choice", "open", "score10"]
Status = Literal["scored", "unparsed", "hidden", "judge_failed"]
Messages = list[dict[str, str]]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Row:
    """One question."""

    id: str
    """Unique within the task."""
    question: str
    clip: Clip | None
    options: tuple[str, ...] = ()
    """As the file has them, some benchmarks' with a label in front. Empty unless the task is a choice."""
    answer: str | None = None
    """The right option's label, or the reference text; None where it is not public."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """What scores are broken down by, such as ``{"duration": "long"}``."""
    subtitles: str | None = None
    """Path of the ``.srt`` file; None without one, or where the task is run without subtitles."""
    still: Clip | None = None
    """A single frame shown after the video (EgoPlan's present observation)."""
    cluster: str = ""
    """Rows of equal clusters are not independent: the source video where several clips are cut from one."""
    excluded: str | None = None
    """Why the row cannot be scored (its file's fault): counted apart and never asked."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else judging or a submission needs."""
    where: str = ""
    """``file:row`` of the benchmark, for messages."""

    @property
    def labels(self) -> str:
        """The labels of the options: ``"ABCD"``."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True)
class Judged:
    """What a reply was found to be.

    ``scored``: right, wrong or in between. ``unparsed``: no answer can be read in the reply. ``hidden``: an answer was
    read, but the right one is not public. ``judge_failed``: the judge's reply cannot be read.
    """

    status: Status
    parsed: str | None = None
    """The label or normalised text read in the reply."""
    score: float | None = None
    """0 or 1; 1 to 10 for tasks of kind ``score10``; None unless ``scored``."""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """How somebody published to have run a benchmark. Written into every result."""

    about: str
    """Whose way of asking this is."""
    style: str
    """Name of the prompt; its text is in the task."""
    sampling: str
    """Frame policy, as ``FrameSampling.parse`` reads it."""
    max_new_tokens: int
    temperature: float = 0.0
    system: str = ""
    """System message; empty: the model's own."""
    reply_prefix: str = ""
    """Text that the assistant's turn already begins with when the model goes on; the reply excludes it."""
    model_settings: Mapping[str, float] = field(default_factory=dict)
    """Fields of the model's configuration that the benchmark is run with, such as ``drop_threshold``."""
    bounds: bool = True
    """Whether a clip's start and end are kept to; without, the whole video is shown."""
    segments: int | None = None
    """Instead of ``sampling``, the middle frame of each of so many equal parts."""
    likelihood: Literal["label", "text"] = "label"
    """What is compared where options are scored by likelihood: their labels, or their texts."""


class NoOptions(Config):
    """For tasks without options of their own."""


class Task(ABC):
    """A benchmark, set up: its preset and options are chosen, its files are not yet read."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line for lists."""
    kind: ClassVar[Kind] = "choice"
    source: ClassVar[str]
    """Where its files come from and under which terms."""
    layout: ClassVar[str]
    """The folder that ``rows`` expects, a line per file."""
    presets: ClassVar[Mapping[str, Preset]]
    Options: ClassVar[type[Config]] = NoOptions
    mean_over: ClassVar[str | None] = None
    """The headline is the plain mean over this category's values; None: over all rows."""
    submission_name: ClassVar[str] = ""
    """File name of the submission, if there is one."""

    def __init__(self, preset: str, options: Config | None = None) -> None:
        """Use :func:`pipelines.evaluate.tasks.registry.task`, which checks names and options."""
        self.preset_name, self.preset = preset, self.presets[preset]
        self.options: Any = options or self.Options()

    @property
    def sampling(self) -> FrameSampling:
        """The preset's frame policy; clips add their bounds in :meth:`shown`."""
        return FrameSampling.parse(self.preset.sampling)

    @property
    def max_new_tokens(self) -> int:
        return self.preset.max_new_tokens

    @property
    def needs_judge(self) -> bool:
        """Whether the score is a judge's: :meth:`judge_messages`, then :meth:`judged`."""
        return False

    @property
    def needs_times(self) -> bool:
        """Whether :meth:`prompt` wants ``times_s`` and ``count_tokens``: subtitles of the sampled frames."""
        return False

    def rows(self, data: Path) -> Iterator[Row]:
        """The questions in the order of the files.

        Raises:
            UserError: a file is missing (with where to get it), or a row is broken (with file, row and field).
        """
        first: dict[str, str] = {}
        for row in self.load(data):
            if row.id in first:
                raise UserError(f"{row.where}: its id {row.id!r} is that of {first[row.id]} already")
            first[row.id] = row.where
            yield row

    @abstractmethod
    def load(self, data: Path) -> Iterator[Row]:
        """What :meth:`rows` gives, ids not yet compared."""

    @abstractmethod
    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        """What the user says after the video.

        Args:
            times_s: of the sampled frames, ``Shown.times_s()``; read only where :attr:`needs_times`.
            count_tokens: of the model's tokenizer; read only where :attr:`needs_times`.
        """

    @abstractmethod
    def score(self, row: Row, reply: str) -> Judged:
        """Score a reply without a judge."""

    def shown(self, row: Row, made: Path) -> Shown:
        """The files that the model is shown for a row, and which of their frames.

        Args:
            made: folder for files that have to be made first: folders of frames and composed videos become videos.

        Raises:
            VideoError: the video, or a frame of it, is not there.
            ValueError: no frame lies in the clip.
        """
        clip = row.clip
        if clip is not None and not self.preset.bounds:
            clip = dataclasses.replace(clip, start_s=None, end_s=None)
        return show(clip, row.still, self.sampling, made, self.preset.segments)

    def judge_messages(self, row: Row, reply: str) -> Messages:
        """What the judge is asked, as chat messages of plain text."""
        raise NotImplementedError(f"{self.name} is scored without a judge")

    def judged(self, row: Row, reply: str, judge_reply: str) -> Judged:
        """The judge's verdict on a reply."""
        raise NotImplementedError(f"{self.name} is scored without a judge")

    def submission(self, rows: Sequence[Row], replies: Mapping[str, str]) -> bytes | None:
        """The file to hand in, from replies by row id; None for benchmarks without one."""
        return None

    def published_results(self, model: str, scored: Sequence[tuple[Row, str, Judged]]) -> dict[str, bytes]:
        """Scored replies in files that the benchmark's own scripts read, by name; none for most benchmarks."""
        return {}

    def plots(self, answered: Sequence[tuple[Row, Judged]], folder: Path) -> list[Path]:
        """Pictures of the benchmark's own, written to ``folder``; of replies that were scored or could not be read."""
        return []

    def file(self, data: Path, *names: str) -> Path:
        """The first of ``names`` that is in ``data``. Raises UserError: none is; it says what should be, and whence."""
        if not data.is_dir():
            raise UserError(f"{self.name}: {data}: no such folder. {self.where_from()}")
        found = find_file(data, *names)
        if found is None:
            raise UserError(f"{self.name}: {data} has no {' or '.join(names)}. {self.where_from()}")
        return found

    @classmethod
    def where_from(cls) -> str:
        """Where the files come from and how they must lie, for people."""
        lines = "\n".join(f"    {line}" for line in cls.layout.splitlines())
        return f"Source: {cls.source}. Layout:\n{lines}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides what is asked, shown and judged, for results; plain JSON values."""
        return {
            "task": self.name,
            "preset": self.preset_name,
            **dataclasses.asdict(self.preset),
            "options": self.options.model_dump(mode="json"),
        }

    def digest(self) -> str:
        """12 hex digits of :meth:`settings`."""
        return hashlib.blake2b(repr(sorted(self.settings().items())).encode(), digest_size=6).hexdigest()
