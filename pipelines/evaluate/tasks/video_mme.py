"""Video-MME: 900 videos of eleven seconds to an hour, three questions each, with or without their subtitles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from longvu_model.subtitles import Subtitle, at_times, read_subtitles
from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import Preset, Row
from pipelines.evaluate.tasks.choice import AS_GIVEN, QUESTION_OPTIONS, ChoiceStyle, ChoiceTask
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, find_file, find_media, parquet_records

DURATIONS = ("short", "medium", "long")
_LETTER_ONLY = "Respond with only the letter (A, B, C, or D) of the correct option.\n"
_SELECT = "Select the best answer to the following multiple-choice question based on the video"
_MOST_TOKENS = 6000
_KEPT_CUES = 200


class Options(Config):
    subtitles: bool = setting(
        False, about="whether the subtitles of the sampled frames precede the question (videos without any go without)"
    )
    durations: tuple[Literal["short", "medium", "long"], ...] = setting(
        DURATIONS, about="which of short (< 2 min), medium (4-15 min) and long (30-60 min) videos to run"
    )


class VideoMME(ChoiceTask):
    """Rows of the Parquet file; ids are ``question_id``."""

    name = "video_mme"
    about = "2,700 questions about 900 videos of 11 seconds to 1 hour, by duration and domain; subtitles on request"
    source = (
        "huggingface.co/datasets/lmms-lab/Video-MME (academic research only; the makers' terms are in its README), "
        "as re-annotated on 2024-06-15"
    )
    layout = """\
videomme/test-00000-of-00001.parquet    (or at the root)
data/<videoID>.mp4                      (the members of video*.zip, flattened)
subtitle/<videoID>.srt                  (of subtitle.zip, for subtitles=true; 156 videos have none)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        "longvu": Preset(
            about="LongVU, eval_videomme.py; the release takes subtitles whenever the .srt is there",
            style="longvu",
            sampling="fps:0.5,round_rate_first:true",
            max_new_tokens=5,
            model_settings={"drop_threshold": 0.65, "dino_threshold": 0.83},
        ),
        "official": Preset(
            about="the prompt of Video-MME's README; it leaves frames to the model",
            style="official",
            sampling="uniform:64",
            max_new_tokens=16,
        ),
        "lmms": Preset(
            about="lmms-eval's prompt at its 32 frames; markup of subtitles is left out, not required",
            style="lmms",
            sampling="uniform:32",
            max_new_tokens=16,
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "longvu": ChoiceStyle(QUESTION_OPTIONS, AS_GIVEN, "\n" + _LETTER_ONLY),
        "official": ChoiceStyle(f"{_SELECT}. {_LETTER_ONLY}{{question}}\n", AS_GIVEN, "\nThe best answer is:"),
        "lmms": ChoiceStyle(
            f"{_SELECT} and the subtitles. {_LETTER_ONLY}{{question}}\n",
            AS_GIVEN,
            "\n\nAnswer with the option's letter from the given choices directly.",
        ),
    }
    submission_name = "video_mme_output.json"

    @property
    def needs_times(self) -> bool:
        return bool(self.options.subtitles)

    def load(self, data: Path) -> Iterator[Row]:
        name = "test-00000-of-00001.parquet"
        records = parquet_records(self.file(data, f"videomme/{name}", name), data)
        if self.options.subtitles:
            self.file(data, "subtitle")
        for record in records:
            if record.one_of("duration", DURATIONS) in self.options.durations:
                yield self._row(data, record)

    def _row(self, data: Path, record: Record) -> Row:
        video, options = record.text("videoID"), record.texts("options", 4, 4)
        for label, option in zip("ABCD", options, strict=True):
            if not option.startswith(f"{label}."):
                raise record.error("options", f"the option {option!r} must begin with {label}.")
        subtitles = find_file(data, f"subtitle/{video}.srt") if self.options.subtitles else None
        if subtitles is not None:
            _subtitles(str(subtitles))
        categories = {field: record.text(field) for field in ("duration", "domain", "sub_category", "task_type")}
        if self.options.subtitles:
            categories["subtitles"] = "none" if subtitles is None else "shown"
        return Row(
            id=record.text("question_id"),
            question=record.text("question"),
            clip=Clip(find_media([data / "data"], video, (".mp4", ".mkv", ".avi", ".mov"))),
            options=options,
            answer=record.one_of("answer", "ABCD"),
            categories=categories,
            subtitles=None if subtitles is None else str(subtitles.absolute()),
            details={"video_id": record.text("video_id")},
            where=record.where,
        )

    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        question = super().prompt(row)
        if row.subtitles is None:
            return question
        if not len(times_s):
            raise ValueError(f"{row.id}: subtitles=true wants the times of the sampled frames, Shown.times_s()")
        cues = _subtitles(row.subtitles)
        if self.preset_name == "longvu":
            texts = longvu_subtitles(cues, times_s, count_tokens)
        else:
            texts = at_times(cues, times_s)
        return f"This video's subtitles are listed below:\n{_joined(texts)}\n{question}"

    def settings(self) -> dict[str, Any]:
        rule = "cues of sampled frames; LongVU's rule" if self.preset_name == "longvu" else "cues of sampled frames"
        return {**super().settings(), "subtitle_rule": rule if self.options.subtitles else "no subtitles"}

    def submission(self, rows: Sequence[Row], replies: Mapping[str, str]) -> bytes | None:
        """The list that ``eval_your_results.py`` reads: videos with their questions and responses as given."""
        videos: dict[str, dict[str, Any]] = {}
        for row in rows:
            identity = {"video_id": row.details["video_id"]}
            identity |= {field: row.categories[field] for field in ("duration", "domain", "sub_category")}
            video = videos.setdefault(row.details["video_id"], {**identity, "questions": []})
            video["questions"].append(
                {
                    "question_id": row.id,
                    "task_type": row.categories["task_type"],
                    "question": row.question,
                    "options": list(row.options),
                    "answer": row.answer,
                    "response": replies.get(row.id, ""),
                }
            )
        return json.dumps(list(videos.values()), indent=1, ensure_ascii=False).encode()


def longvu_subtitles(
    cues: Sequence[Subtitle], times_s: Sequence[float], count_tokens: Callable[[str], int] | None
) -> list[str]:
    """The texts that LongVU puts before a question.

    For each frame the first cue that began before it and ends after it, compared in whole milliseconds; without music
    and applause, texts already taken, and texts contained in the last one. Of more than 6,000 tokens every
    ``n // 200``-th is kept.

    Raises:
        UserError: tokens cannot be counted.
    """
    if count_tokens is None:
        raise UserError(
            "video_mme: preset=longvu limits subtitles by the model's tokens, which an endpoint does not count; take "
            "preset=official, or subtitles=false"
        )
    spans = [(round(1000 * cue.start_s), round(1000 * cue.end_s), cue.text) for cue in cues]
    texts: list[str] = []
    for time_s in times_s:
        time_ms = round(1000 * time_s)
        text = next((text for start, end, text in spans if start < time_ms < end), "")
        if not text or "[Music]" in text or "[Applause]" in text or text in texts:
            continue
        if not texts or text not in texts[-1]:
            texts.append(text)
    if count_tokens(_joined(texts)) > _MOST_TOKENS:
        # The released code divides by zero for fewer than 200 long cues.
        texts = [texts[i] for i in np.arange(0, len(texts), max(1, len(texts) // _KEPT_CUES))]
    return texts


def _joined(texts: Sequence[str]) -> str:
    return "\n".join(texts)


@lru_cache(maxsize=64)
def _subtitles(path: str) -> list[Subtitle]:
    try:
        return read_subtitles(path)
    except ValueError as error:
        raise UserError(f"{error}; mend or delete the file") from None
