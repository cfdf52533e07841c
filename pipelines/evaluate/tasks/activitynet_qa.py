"""ActivityNet-QA: open questions about three minutes of activity, in nine types; scored exactly or by a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.config import setting
from pipelines.evaluate.tasks import open_qa
from pipelines.evaluate.tasks.base import Preset, Row
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.open_qa import PRESETS, WORD_OR_PHRASE, OpenQA
from pipelines.evaluate.tasks.records import Record, find_media, json_records, paired

TYPES = ("motion", "spatial", "temporal", "yes/no", "colour", "object", "location", "number", "other")


class Options(open_qa.Options):
    split: Literal["test", "val", "train"] = setting("test", about="test (8,000 rows), val (18,000) or train (32,000)")  # type: ignore[assignment]


class ActivityNetQA(OpenQA):
    """Rows of ``<split>_q.json`` joined with ``<split>_a.json``; ids are ``question_id``."""

    name = "activitynet_qa"
    about = "open questions in 9 types about 800 videos of activities (test 8,000)"
    source = "github.com/MILVLG/activitynet-qa (questions); videos of activity-net.org, research use only"
    layout = """\
<split>_q.json
<split>_a.json
all_test/v_<video_name>.mp4    (or .mkv, .webm; also in videos/)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        **PRESETS,
        "lmms": Preset(
            about="lmms-eval's prompt; it leaves frames to the model",
            style="sentence",
            sampling="uniform:32",
            max_new_tokens=64,
        ),
    }
    styles: ClassVar[Mapping[str, str]] = {**OpenQA.styles, "sentence": "{question}" + WORD_OR_PHRASE}

    def load(self, data: Path) -> Iterator[Row]:
        questions = json_records(self.file(data, f"{self.options.split}_q.json"), data)
        answers = json_records(self.file(data, f"{self.options.split}_a.json"), data)
        for record in paired(questions, answers, "question_id"):
            yield self._row(data, record)

    def _row(self, data: Path, record: Record) -> Row:
        video, question = record.text("video_name"), record.text("question")
        if self.preset.style == "sentence":
            question = question[0].upper() + question[1:] + "?"
        return Row(
            id=record.text("question_id"),
            question=question,
            clip=Clip(find_media([data / "all_test", data / "videos"], f"v_{video}", (".mp4", ".mkv", ".webm"))),
            answer=record.text("answer"),
            categories={"type": TYPES[record.integer("type", range(len(TYPES)))]},
            cluster=video,
            where=record.where,
        )
