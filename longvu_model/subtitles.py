"""Subtitles: reading SubRip (``.srt``) text, and what is said while something is seen.

Needs no torch. What a model makes of subtitles is the model's business
(:mod:`longvu_model.llamavid.long_video`) or the evaluation task's.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# "00:01:02,500 --> 00:01:04,000 X1:..." with a comma or a point, hours optional.
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[,.]\d+)?)"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_MARKUP = re.compile(r"</?(?:b|i|u|s|font|c)\b[^>]*>|\{\\[^}]*\}", re.IGNORECASE)


@dataclass(frozen=True)
class Subtitle:
    """One text and when it is shown, in seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: str | Path) -> list[Subtitle]:
    """The subtitles of an ``.srt`` file, in the order of their times.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no subtitle in it, or times that run backwards; names the file.
    """
    text = decode_subtitles(Path(path).read_bytes())
    try:
        return parse_srt(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def decode_subtitles(content: bytes) -> str:
    """Text of an ``.srt`` file: UTF-8 or UTF-16 by its byte order mark, else UTF-8, else Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse_srt(text: str) -> list[Subtitle]:
    """Subtitles of SubRip text, sorted by their times.

    A line of times begins an entry; all lines up to the next one, without the counter in front of that, are its text,
    joined with spaces. Markup is left out, as are entries without text.

    Raises:
        ValueError: not one line of times, or an entry that ends before it starts.
    """
    lines = text.replace("\0", "").splitlines()
    starts = [i for i, line in enumerate(lines) if _TIMES.match(line)]
    if not starts:
        raise ValueError(f"no subtitles: not one line like '00:00:01,500 --> 00:00:03,000' in {len(lines)} lines")
    subtitles = []
    for start, following in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        match = _TIMES.match(lines[start])
        assert match is not None
        begin_s, end_s = _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:])
        if end_s < begin_s:
            raise ValueError(f"line {start + 1}, {lines[start].strip()!r}: the subtitle ends before it starts")
        body = lines[start + 1 : following]
        if following <= len(lines) and body and body[-1].strip().isdigit():
            body = body[:-1]  # the next entry's counter
        words = " ".join(" ".join(_MARKUP.sub("", line).split()) for line in body if line.strip())
        if words:
            subtitles.append(Subtitle(begin_s, end_s, words))
    return sorted(subtitles, key=lambda subtitle: (subtitle.start_s, subtitle.end_s))


def at_times(subtitles: Sequence[Subtitle], times_s: Sequence[float]) -> list[str]:
    """Texts shown at one of the times at least, in order, each entry once."""
    times = sorted(times_s)
    return [s.text for s in subtitles if bisect_left(times, s.start_s) < bisect_right(times, s.end_s)]


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
