"""SubRip text as it is found in the wild."""

from __future__ import annotations

from pathlib import Path

import pytest

from longvu_model.subtitles import Subtitle, at_times, decode_subtitles, parse_srt, read_subtitles

TEXT = """1
00:00:01,500 --> 00:00:03,000
<i>Hello</i>... there,
  you.

2
00:00:05.250 --> 00:00:06.000 X1:10
42

01:02 --> 01:03,5

3
00:00:04,000 --> 00:00:04,500
{\\an8}<font color="#fff">earlier</font>
"""


def test_entries_are_read_and_sorted() -> None:
    assert parse_srt(TEXT) == [
        Subtitle(1.5, 3.0, "Hello... there, you."),
        Subtitle(4.0, 4.5, "earlier"),
        Subtitle(5.25, 6.0, "42"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding: str) -> None:
    text = TEXT.replace("there", "café").replace("\n", "\r\n")
    assert parse_srt(decode_subtitles(text.encode(encoding)))[0].text == "Hello... café, you."


def test_what_is_no_subtitle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "film.srt"
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match=r"film\.srt: no subtitles"):
        read_subtitles(path)
    with pytest.raises(ValueError, match=r"line 1, .* ends before it starts"):
        parse_srt("00:00:03,000 --> 00:00:01,000\nx\n")


def test_texts_at_times() -> None:
    subtitles = [Subtitle(0, 2, "a"), Subtitle(1, 4, "b"), Subtitle(6, 7, "c")]
    assert at_times(subtitles, [3.0, 1.5]) == ["a", "b"]
    assert at_times(subtitles, [5.0]) == [] == at_times(subtitles, [])
