"""Which subtitles precede a Video-MME question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longvu_model.subtitles import Subtitle
from pipelines.errors import UserError
from pipelines.evaluate.tasks.registry import task
from pipelines.evaluate.tasks.samples import Sample
from pipelines.evaluate.tasks.video_mme import longvu_subtitles

CUES = [
    Subtitle(0.5, 2.5, "one"),
    Subtitle(2.0, 4.0, "a second"),
    Subtitle(3.9, 6.5, "[Music]"),
    Subtitle(5.0, 8.5, "one"),
    Subtitle(8.0, 11.0, "second"),
    Subtitle(11.5, 13.0, "[Applause] three"),
    Subtitle(13.5, 15.0, "four"),
    Subtitle(15.9, 19.0, "fo"),
    Subtitle(20.0, 21.0, "borders do not count"),
]


def words(text: str) -> int:
    return len(text.split())


def slow(cues: list[Subtitle], times_s: list[float]) -> list[str]:
    """The rule as the specification says it, one step after the other."""
    texts: list[str] = []
    for time_s in times_s:
        for cue in cues:
            if cue.start_s < time_s < cue.end_s:
                unwanted = "[Music]" in cue.text or "[Applause]" in cue.text
                repeated = cue.text in texts or (bool(texts) and cue.text in texts[-1])
                if not unwanted and not repeated:
                    texts.append(cue.text)
                break
    return texts


def test_longvu_rule() -> None:
    times = [float(second) for second in range(0, 22, 2)]
    # At 2 s the first cue that began before holds; 4 s is music; at 10 s "second" is new, but not after "a second".
    assert longvu_subtitles(CUES, times, words) == slow(CUES, times) == ["one", "second", "four"]
    assert longvu_subtitles(CUES, [2.7, 10.0], words) == slow(CUES, [2.7, 10.0]) == ["a second"]


@pytest.mark.parametrize(("count", "kept"), [(150, 150), (450, 225), (2001, 201)])
def test_a_long_block_is_thinned(count: int, kept: int) -> None:
    cues = [Subtitle(float(n), n + 1.0, f"text{n}") for n in range(count)]
    times = [n + 0.5 for n in range(count)]

    def tokens(text: str) -> int:
        return 50 * words(text)

    texts = longvu_subtitles(cues, times, tokens)
    assert len(texts) == kept and texts[0] == "text0"
    assert longvu_subtitles(cues, times, lambda _: 6000) == [cue.text for cue in cues]


def test_tokens_must_be_countable() -> None:
    with pytest.raises(UserError, match="take preset=official"):
        longvu_subtitles(CUES, [2.0], None)


def test_prompts_with_and_without(sample: Callable[[str], Sample], made: Path) -> None:
    data = sample("video_mme").data
    without = task("video_mme")
    assert not without.needs_times and without.settings()["subtitle_rule"] == "no subtitles"
    (first, *_) = without.rows(data)
    plain = without.prompt(first)
    shown = task("video_mme", options=["subtitles=true"])
    assert shown.needs_times and shown.digest() != without.digest()
    rows = list(shown.rows(data))
    times = shown.shown(rows[0], made).times_s()
    assert times == [0.0, 2.0, 4.0, 6.0]
    block = "This video's subtitles are listed below:\n"
    assert shown.prompt(rows[0], times, words) == f"{block}look at\na red one\n{plain}"
    assert [row.categories["subtitles"] for row in rows] == ["shown"] * 3 + ["none"] * 2
    assert shown.prompt(rows[3]) == without.prompt(list(without.rows(data))[3])
    with pytest.raises(ValueError, match="times of the sampled frames"):
        shown.prompt(rows[0])
    official = task("video_mme", "official", ["subtitles=true"])
    asked = official.prompt(rows[0], [1.0, 2.0, 4.5])
    assert asked.startswith(f"{block}[Music]\nlook at\na red one\nSelect the best answer")
