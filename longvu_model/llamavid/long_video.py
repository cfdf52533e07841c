"""Videos of an hour: frames known by their features, with subtitles between them (SEMANTICS section 5).

The prompt has a slot for every visual token, and behind the slots of a frame what was said until the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from longvu_model.labels import Turn
from longvu_model.llamavid.semantics import Semantics
from longvu_model.prompts import IMAGE_MARKER
from longvu_model.subtitles import Subtitle, parse_srt

_OPENING = "Below is a movie. Memorize the content and answer my question after watching this movie."
_CLOSING = "Now the movie end."
ELLIPSIS = "..."


def read_srt(text: str, rules: Semantics) -> list[Subtitle]:
    """Subtitles of SubRip text; the published reader ends an entry at every line of digits."""
    return _read_published(text) if rules.digits_end_subtitle else parse_srt(text)


def _read_published(text: str) -> list[Subtitle]:
    subtitles: list[Subtitle] = []
    times: tuple[float, float] | None = None
    said: list[str] = []
    for line in [*text.replace("\0", "").replace(ELLIPSIS, "").splitlines(), "0"]:
        line = line.strip()
        if line.isdigit():
            if times is not None and said:
                subtitles.append(Subtitle(*times, " ".join(said)))
            times, said = None, []
        elif "-->" in line:
            start, _, end = line.partition("-->")
            times = _seconds(start), _seconds(end)
        elif line:
            said.append(line)
    return subtitles


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.strip().replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def texts_after_frames(times_s: Sequence[float], subtitles: Sequence[Subtitle], rules: Semantics) -> list[str]:
    """What is said after each frame.

    A subtitle follows the last frame that is shown before it ends; its start does not count. In order: a subtitle never
    stands before one that came earlier in the list.

    Raises:
        ValueError: no frames.
    """
    if not times_s:
        raise ValueError("no frames to put subtitles between")
    said: list[list[str]] = [[] for _ in times_s]
    shown = 0
    for subtitle in subtitles:
        while shown < len(times_s) and times_s[shown] < subtitle.end_s:
            shown += 1
        said[shown - 1 if rules.early_subtitle_last else max(shown - 1, 0)].append(subtitle.text)
    return [" ".join(texts) for texts in said]


def interleave(times_s: Sequence[float], subtitles: Sequence[Subtitle], rules: Semantics) -> str:
    """A marker for each frame, each followed by what is said after it: the text of a long video."""
    return "".join(IMAGE_MARKER + text for text in texts_after_frames(times_s, subtitles, rules))


def question_about(inputs: str, question: str, tokens_per_frame: int) -> str:
    """The user's turn about a long video.

    Args:
        inputs: from :func:`interleave`.
        tokens_per_frame: visual tokens, each of which gets a slot.
    """
    return f"{_OPENING}{_with_token_slots(inputs, tokens_per_frame)}{_CLOSING}\n{question}"


def training_turns(turns: Sequence[Turn], inputs: str, tokens_per_frame: int) -> tuple[list[Turn], str]:
    """A sample's turns with the long video in place of its marker, and the one text that guides all of it.

    Raises:
        ValueError: no marker in the first turn.
    """
    first = turns[0].text
    if IMAGE_MARKER not in first:
        raise ValueError(f"first turn {first!r:.60} has no {IMAGE_MARKER}, the place of the video")
    shown = _with_token_slots(inputs.replace(ELLIPSIS, ""), tokens_per_frame)
    guide = first.replace(IMAGE_MARKER, "").strip()
    return [Turn(turns[0].role, first.replace(IMAGE_MARKER, shown)), *turns[1:]], guide


def _with_token_slots(inputs: str, tokens_per_frame: int) -> str:
    return inputs.replace(IMAGE_MARKER, IMAGE_MARKER * tokens_per_frame)
