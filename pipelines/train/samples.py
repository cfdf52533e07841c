"""LLaVA-style rows -> samples: who says what about which media, with the irregularities of published files mended.

A row has ``conversations`` and perhaps ``image`` or ``video``. What a row leaves open is decided by one rule each and
counted (:data:`Repair`); a row that cannot be used is quarantined with its cause, and nothing takes its place. Keys
that no known file has stop the run: they may carry something that should be learned.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from longvu_model.labels import Turn, read_turns
from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER, escape_markers
from pipelines.errors import UserError

Modality = Literal["text", "image", "video"]
Kind = Literal["image", "video"]

KNOWN_KEYS = frozenset(
    ("id", "image", "video", "conversations", "model", "start", "end", "data_source", "source", "task", "metadata")
)
_NO_MEDIUM = ("", "None", "none", "nan")

Repair = Literal[
    "leading answer dropped",
    "marker moved",
    "marker added",
    "marker without medium stripped",
    "empty medium ignored",
    "other path",
    "other extension",
]


class Unusable(ValueError):
    """A row that cannot be learned from; ``cause`` is one of a few short names."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Quarantined:
    """A row that is left out: where it is, and why."""

    file: str
    row: int
    sample_id: str
    cause: str
    message: str


@dataclass(frozen=True)
class MediaRef:
    """One picture or video of a sample.

    Attributes:
        kind: how the sample shows it; a video of one frame is still a video.
        path: as the row gives it.
        uri: where it lies; empty until it has been looked up.
        video_id: SHA-256 of its bytes if the feature store has it, otherwise None: it is decoded when needed.
        start_s, end_s: the part that is shown, in seconds; None for all of it.
        reduced: whether its frames do not all fit, so that near-duplicates are left out; known once it is measured.
    """

    kind: Kind
    path: str
    uri: str = ""
    video_id: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    reduced: bool = False


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        sample_id: ``<file>:<row>``; the ids in files are not unique.
        original_id: the row's own, as text.
        media: in the order of their markers.
        turns: with one ``<image>`` for each medium; in all other places ``<image>`` is escaped.
        repairs: what was mended.
    """

    sample_id: str
    original_id: str
    modality: Modality
    media: tuple[MediaRef, ...]
    turns: tuple[Turn, ...]
    repairs: tuple[Repair, ...] = ()


def check_keys(record: Mapping[str, Any], file: str, row: int, ignore: Collection[str] = ()) -> None:
    """Stop at a row whose keys say that it is of another form than the one read here.

    Raises:
        UserError: unknown keys, or no conversation.
    """
    unknown = sorted(set(record) - KNOWN_KEYS - set(ignore))
    if unknown:
        raise UserError(
            f"{file}: row {row} has {', '.join(map(repr, unknown))} beside the keys that are understood "
            f"({', '.join(sorted(KNOWN_KEYS))}); convert the file, or name them in ignore_keys if they teach nothing"
        )
    if "conversations" not in record:
        raise UserError(
            f"{file}: row {row} has no 'conversations', only {', '.join(map(repr, sorted(record)))}; "
            f"a list of turns with 'from' and 'value' is needed"
        )


def read_sample(record: Mapping[str, Any], sample_id: str) -> Sample:
    """The sample of a row; its media still have to be looked up.

    Raises:
        Unusable: the row contradicts itself.
    """
    repairs: list[Repair] = []
    kind, paths = _media(record, repairs)
    start_s, end_s = _clip(record)
    if kind is None:
        turns = _without_markers(_turns(record, repairs), repairs)
    elif len(paths) == 1:
        turns = _one_marker(_turns(record, repairs), repairs)
    else:
        turns = _as_many_markers(_turns(record, repairs), len(paths))
    media = () if kind is None else tuple(MediaRef(kind, path, start_s=start_s, end_s=end_s) for path in paths)
    return Sample(sample_id, str(record.get("id", "")), kind or "text", media, tuple(turns), tuple(repairs))


def _media(record: Mapping[str, Any], repairs: list[Repair]) -> tuple[Kind | None, list[str]]:
    found: dict[Kind, list[str]] = {}
    kinds: tuple[Kind, ...] = ("image", "video")
    for kind in kinds:
        if kind not in record:
            continue
        value = record[kind]
        values = value if isinstance(value, list) else [value]
        paths = [one for one in values if not _is_empty(one)]
        if not paths:
            repairs.append("empty medium ignored")
            continue
        if len(paths) < len(values) or not all(isinstance(one, str) for one in paths):
            raise Unusable("bad path", f"{kind} is {value!r:.80}: give one path, or a list of paths")
        found[kind] = paths
    if len(found) > 1:
        raise Unusable("image and video", "has both an image and a video; which marker means which is not said")
    return next(iter(found.items()), (None, []))


def _is_empty(value: Any) -> bool:
    return value is None or value in _NO_MEDIUM or (isinstance(value, float) and math.isnan(value))


def _clip(record: Mapping[str, Any]) -> tuple[float | None, float | None]:
    start_s, end_s = record.get("start"), record.get("end")
    if start_s is None and end_s is None:
        return None, None
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (start_s, end_s))
    if not numbers or not 0 <= start_s < end_s < math.inf:  # type: ignore[operator]
        raise Unusable("bad clip", f"start={start_s!r}, end={end_s!r}: both are needed, in seconds, 0 <= start < end")
    return float(start_s), float(end_s)  # type: ignore[arg-type]


def _turns(record: Mapping[str, Any], repairs: list[Repair]) -> list[Turn]:
    """Turns in alternation, the user first, perhaps after a system turn."""
    conversation = record["conversations"]
    if not isinstance(conversation, list) or not all(isinstance(turn, Mapping) for turn in conversation):
        raise Unusable("bad turns", f"conversations is {conversation!r:.80}: give a list of turns")
    try:
        turns = read_turns(conversation)
    except ValueError as error:
        raise Unusable("bad turns", str(error)) from None
    system = turns[:1] if turns and turns[0].role == "system" else []
    rest = turns[len(system) :]
    if rest and rest[0].role == "assistant":
        repairs.append("leading answer dropped")
        while rest and rest[0].role == "assistant":
            rest = rest[1:]
    for place, turn in enumerate(rest):
        if turn.role != ("user", "assistant")[place % 2]:
            raise Unusable("bad turns", f"turn {place + len(turns) - len(rest)} is the {turn.role}'s: turns alternate")
    if len(rest) < 2:
        raise Unusable("no answer", "has no question with an answer")
    return system + rest


def _one_marker(turns: Iterable[Turn], repairs: list[Repair]) -> list[Turn]:
    """The marker at the front of the first question and nowhere else."""
    placed: list[Turn] = []
    markers = [_count(turn) for turn in turns if turn.role == "user"]
    first = True
    for turn in turns:
        if turn.role != "user":
            placed.append(Turn(turn.role, escape_markers(turn.text)))
            continue
        text = turn.text
        if _count(turn):
            text = text.replace(VIDEO_MARKER, "").replace(IMAGE_MARKER, "").strip()
        if first:
            if not sum(markers):
                repairs.append("marker added")
            elif sum(markers) > 1 or not turn.text.startswith((IMAGE_MARKER, VIDEO_MARKER)):
                repairs.append("marker moved")
            text, first = f"{IMAGE_MARKER}\n{text}", False
        placed.append(Turn(turn.role, text))
    return placed


def _as_many_markers(turns: Iterable[Turn], count: int) -> list[Turn]:
    """Markers where they are; there must be one for each medium."""
    placed = [
        Turn(turn.role, turn.text.replace(VIDEO_MARKER, IMAGE_MARKER))
        if turn.role == "user"
        else Turn(turn.role, escape_markers(turn.text))
        for turn in turns
    ]
    markers = sum(_count(turn) for turn in placed)
    if markers != count:
        raise Unusable("markers", f"has {markers} {IMAGE_MARKER} for {count} media: one is needed for each")
    return placed


def _without_markers(turns: Iterable[Turn], repairs: list[Repair]) -> list[Turn]:
    """Questions without markers; in answers they are ordinary text."""
    turns = list(turns)
    if not any(_count(turn) for turn in turns if turn.role == "user"):
        return turns
    repairs.append("marker without medium stripped")
    return [
        Turn(turn.role, turn.text.replace(VIDEO_MARKER, "").replace(IMAGE_MARKER, "").strip())
        if turn.role == "user"
        else turn
        for turn in turns
    ]


def _count(turn: Turn) -> int:
    return turn.text.count(IMAGE_MARKER) + turn.text.count(VIDEO_MARKER)
