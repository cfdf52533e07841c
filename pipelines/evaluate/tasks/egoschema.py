"""EgoSchema: one question about three minutes of a day, five long options; most answers are kept by the organisers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import LETTERS, Preset, Row
from pipelines.evaluate.tasks.choice import IN_BRACKETS, LLAVA_STYLE, QUESTION_OPTIONS, ChoiceStyle, ChoiceTask
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, find_media, json_records, read_json

_OPTIONS = tuple(f"option {number}" for number in range(5))
_UNREAD = -1


class Options(Config):
    split: Literal["subset", "full"] = setting(
        "subset", about="subset: the 500 questions with public answers; full: all, for a submission"
    )


class EgoSchema(ChoiceTask):
    """Rows of ``questions.json``; ids are ``q_uid``."""

    name = "egoschema"
    about = "5 options about 3-minute egocentric videos; 500 public answers, 5,031 by submission"
    source = (
        "questions and links: github.com/egoschema/EgoSchema (videos under the Ego4D licence, which must be signed); "
        "full set scored at kaggle.com/competitions/egoschema-public"
    )
    layout = """\
questions.json
subset_answers.json      (split=subset)
uid_to_ego4d.json        (optional: errors clustered by source video)
videos/<q_uid>.mp4       (or good_clips_git/, or beside the questions)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        "longvu": Preset(
            about="LongVU, eval_egoschema.py",
            style="longvu",
            sampling="fps:0.5,max:1000,thinning:stride,round_rate_first:true",
            max_new_tokens=5,
            model_settings={"drop_threshold": 0.8, "dino_threshold": 0.83},
        ),
        "videollamb": Preset(
            about="VideoLLaMB, model_videoqa_mc.py",
            style="llava",
            sampling="uniform:16",
            max_new_tokens=1024,
            temperature=0.2,
        ),
        "lmms": Preset(
            about="lmms-eval; it leaves frames to the model", style="llava", sampling="uniform:32", max_new_tokens=16
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "longvu": ChoiceStyle(
            QUESTION_OPTIONS,
            IN_BRACKETS,
            "\nRespond with only the letter (A, B, C, D or E) of the correct option.",
        ),
        "llava": LLAVA_STYLE,
    }
    submission_name = "egoschema_submission.csv"

    def load(self, data: Path) -> Iterator[Row]:
        records = json_records(self.file(data, "questions.json"), data)
        answers = self._answers(data)
        origins = data / "uid_to_ego4d.json"
        videos = read_json(origins, data) if origins.exists() else {}
        if not isinstance(videos, dict):
            raise UserError("uid_to_ego4d.json: must be an object from q_uid to video")
        unknown = answers.keys() - {record.text("q_uid") for record in records}
        if unknown:
            raise UserError(f"subset_answers.json: {min(unknown)} is not in questions.json; take both from one commit")
        for record in records:
            uid = record.text("q_uid")
            if self.options.split == "full" or uid in answers:
                yield self._row(data, record, uid, answers.get(uid), videos.get(uid))

    def _row(self, data: Path, record: Record, uid: str, answer: int | None, origin: object) -> Row:
        if not record.values.get("question"):
            raise record.error("question", "is missing; an early questions.json lacks some, take the current one")
        folders = [data / "videos", data / "good_clips_git", data]
        cluster = origin.get("video_uid", "") if isinstance(origin, dict) else ""
        return Row(
            id=uid,
            question=record.text("question"),
            clip=Clip(find_media(folders, uid, (".mp4", ".avi", ".mov", ".mkv"))),
            options=tuple(record.text(option) for option in _OPTIONS),
            answer=None if answer is None else LETTERS[answer],
            cluster=str(cluster),
            where=record.where,
        )

    def _answers(self, data: Path) -> dict[str, int]:
        path = data / "subset_answers.json"
        if self.options.split == "full" and not path.exists():
            return {}
        answers = read_json(self.file(data, "subset_answers.json"), data)
        if not isinstance(answers, dict):
            raise UserError("subset_answers.json: must be an object from q_uid to 0..4")
        for uid, answer in answers.items():
            if not isinstance(answer, int) or not 0 <= answer < len(_OPTIONS):
                raise UserError(f"subset_answers.json, row {uid}: answer={answer!r}: must be a whole number 0..4")
        return answers

    def submission(self, rows: Sequence[Row], replies: Mapping[str, str]) -> bytes | None:
        """``q_uid,answer`` with 0..4; -1, which no option has, where a reply is missing or commits to none."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("q_uid", "answer"))
        for row in rows:
            label = self.label(row, replies[row.id]) if row.id in replies else None
            writer.writerow((row.id, _UNREAD if label is None else LETTERS.index(label)))
        return out.getvalue().encode()
