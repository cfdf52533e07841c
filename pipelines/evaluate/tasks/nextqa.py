"""NExT-QA, multiple choice: why, how and when in short videos of daily life."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.config import Config, setting
from pipelines.evaluate.tasks.base import LETTERS, Preset, Row
from pipelines.evaluate.tasks.choice import (
    IN_BRACKETS,
    LLAVA_STYLE,
    QUESTION_OPTIONS,
    WITH_DOT,
    ChoiceStyle,
    ChoiceTask,
)
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, csv_records, find_file, find_media, json_records, paired, read_json

GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
TYPES = ("CW", "CH", "TN", "TP", "TC", "DC", "DL", "DO")


class Options(Config):
    split: Literal["val", "test"] = setting("val", about="val (4,996 rows) or test (8,564 rows)")
    files: Literal["csv", "zero_shot"] = setting(
        "csv", about="csv: nextqa/<split>.csv; zero_shot: NExT_Zero_Shot_QA/test_q.json and test_a.json, of val"
    )


class NExTQA(ChoiceTask):
    """Rows of ``<split>.csv``; ids are ``<video>_<qid>``."""

    name = "nextqa"
    about = "5 options on causes, times and descriptions in short videos"
    source = "github.com/doc-doc/NExT-QA (MIT; videos of VidOR under their own licence)"
    layout = """\
dataset/nextqa/<split>.csv               (or nextqa/<split>.csv, or at the root)
dataset/nextqa/map_vid_vidorID.json      (optional: VidOR's folders)
NExTVideo/<vidor folder>/<video>.mp4     (or NExTVideo/<video>.mp4)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(
            about="this project's: LongVU's question and one frame per second",
            style="letter",
            sampling="fps:1",
            max_new_tokens=5,
        ),
        "videollamb": Preset(
            about="VideoLLaMB, model_videoqa_mc.py",
            style="llava",
            sampling="uniform:8",
            max_new_tokens=1024,
            temperature=0.2,
        ),
        "lmms": Preset(
            about="lmms-eval's prompt; it leaves frames to the model",
            style="bare",
            sampling="uniform:32",
            max_new_tokens=16,
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "letter": ChoiceStyle(
            QUESTION_OPTIONS,
            IN_BRACKETS,
            "\nRespond with only the letter (A, B, C, D or E) of the correct option.",
        ),
        "llava": LLAVA_STYLE,
        "bare": ChoiceStyle("{question}\n", WITH_DOT, ""),
    }
    submission_name = "nextqa_result.json"

    def load(self, data: Path) -> Iterator[Row]:
        maps = find_file(data, *(f"{folder}map_vid_vidorID.json" for folder in ("dataset/nextqa/", "nextqa/", "")))
        folders = read_json(maps, data) if maps else {}
        if self.options.files == "zero_shot":
            questions = json_records(self.file(data, "NExT_Zero_Shot_QA/test_q.json", "test_q.json"), data)
            answers = json_records(self.file(data, "NExT_Zero_Shot_QA/test_a.json", "test_a.json"), data)
            yield from (self._zero_shot(data, record, folders) for record in paired(questions, answers, "question_id"))
            return
        split = self.options.split
        path = self.file(data, f"dataset/nextqa/{split}.csv", f"nextqa/{split}.csv", f"{split}.csv")
        for record in csv_records(path, data):
            options = tuple(record.text(f"a{number}") for number in range(5))
            video = record.text("video")
            name = f"{video}_{record.integer('qid', range(1000))}"
            yield self._row(data, record, name, video, options, folders)

    def _zero_shot(self, data: Path, record: Record, folders: Mapping[str, Any]) -> Row:
        given = record.get("option")
        names = [f"option {number}" for number in range(5)]
        if not isinstance(given, dict) or not all(isinstance(given.get(name), str) for name in names):
            raise record.error("option", "must hold the texts option 0 .. option 4")
        options = tuple(given[name] for name in names)
        return self._row(data, record, record.text("question_id"), record.text("video_name"), options, folders)

    def _row(
        self, data: Path, record: Record, name: str, video: str, options: tuple[str, ...], folders: Mapping[str, Any]
    ) -> Row:
        kind = record.one_of("type", TYPES)
        places = [data / "NExTVideo", data / "videos", data]
        path = find_media(places, str(folders.get(video, video)), (".mp4",))
        if not Path(path).exists():
            path = find_media(places, video, (".mp4",))
        return Row(
            id=name,
            question=record.text("question"),
            clip=Clip(path),
            options=options,
            answer=LETTERS[record.integer("answer", range(5))],
            # The makers count TP with TN.
            categories={"group": GROUPS[kind[0]], "type": "TN" if kind == "TP" else kind},
            cluster=video,
            where=record.where,
        )

    def submission(self, rows: Sequence[Row], replies: Mapping[str, str]) -> bytes | None:
        """What ``eval_mc.py`` reads: prediction and answer, 0 to 4; replies that commit to none are left out."""
        result = {}
        for row in rows:
            label = self.label(row, replies[row.id]) if row.id in replies else None
            if label is not None and row.answer is not None:
                result[row.id] = {"prediction": LETTERS.index(label), "answer": LETTERS.index(row.answer)}
        return json.dumps(result).encode()
