"""MLVU (dev), multiple choice: seven tasks on videos of three minutes to nine hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import Preset, Row
from pipelines.evaluate.tasks.choice import IN_BRACKETS, QUESTION_OPTIONS, ChoiceStyle, ChoiceTask
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.mvbench import answer_label
from pipelines.evaluate.tasks.records import Record, find_media, json_records

SOURCE = "huggingface.co/datasets/MLVU/MVLU (CC-BY-NC-SA 4.0, research only; access on request)"
CHOICE_FILES = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
# What some files call themselves in question_type.
_TYPES = {"needle": "findNeedle"}
LONGVU = Preset(
    about="LongVU's evaluation of MLVU",
    style="longvu",
    sampling="fps:0.5,max:1000,thinning:stride,round_rate_first:true",
    max_new_tokens=5,
    model_settings={"drop_threshold": 0.77, "dino_threshold": 0.82},
)


class Options(Config):
    tasks: tuple[str, ...] = setting((), about="names of the tasks to run, such as [plotQA, needle]; empty: all")


class MLVU(ChoiceTask):
    """Rows of ``json/<n>_<task>.json``; ids are ``<task>/<number>``. Unanswerable rows are excluded, with the reason.

    The headline is M-Avg, the plain mean of the seven accuracies.
    """

    name = "mlvu"
    about = "7 multiple-choice tasks on videos of 3 minutes to 9 hours (dev); headline M-Avg"
    source = SOURCE
    layout = """\
MLVU/json/<n>_<task>.json            (or json/)
MLVU/video/<n>_<task>/<video>.mp4    (or video/)"""
    Options = Options
    mean_over = "task"
    presets: ClassVar[Mapping[str, Preset]] = {
        "longvu": LONGVU,
        "official": Preset(
            about="MLVU's own choice_bench.py (VideoChat2): the middle of 16 equal parts",
            style="official",
            sampling="uniform:16",
            segments=16,
            max_new_tokens=100,
            system=(
                "Carefully watch this video and pay attention to every detail. Based on your observations, select the "
                "best option that accurately addresses the question.\n"
            ),
            reply_prefix="Best Option: (",
        ),
        "lmms": Preset(
            about="lmms-eval's prompt; it leaves frames to the model",
            style="lmms",
            sampling="uniform:32",
            max_new_tokens=16,
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "longvu": ChoiceStyle(
            QUESTION_OPTIONS, IN_BRACKETS, "\nRespond with only the letter (A, B, C or D) of the correct option."
        ),
        "official": ChoiceStyle(QUESTION_OPTIONS, IN_BRACKETS, "\nOnly give the best option."),
        "lmms": ChoiceStyle("{question}\n", IN_BRACKETS, "\nOnly give the best option.\nBest option: ("),
    }

    def load(self, data: Path) -> Iterator[Row]:
        for file in chosen_files(CHOICE_FILES, self.options.tasks):
            for record in json_records(self.file(data, f"MLVU/json/{file}.json", f"json/{file}.json"), data):
                yield self._row(data, file, record)

    def _row(self, data: Path, file: str, record: Record) -> Row:
        excluded = _unanswerable(record)
        video = record.text("video", empty=excluded is not None)
        options = () if excluded else record.texts("candidates", 4, 4)
        task = task_of(file)
        if not excluded:
            record.one_of("question_type", (task, _TYPES.get(task, task)))
        return Row(
            id=f"{task}/{record.number - 1}",
            question=record.text("question", empty=excluded is not None),
            clip=None if excluded else Clip(find_video(data, file, video)),
            options=options,
            answer=None if excluded else answer_label(record, options),
            categories={"task": task},
            cluster=video,
            excluded=excluded,
            where=record.where,
        )


def task_of(file: str) -> str:
    """``plotQA`` of ``1_plotQA``."""
    return file.partition("_")[2]


def chosen_files(files: tuple[str, ...], tasks: tuple[str, ...]) -> list[str]:
    """The files of the tasks asked for, all where none is. Raises UserError: there is no such task."""
    known = {task_of(file): file for file in files}
    unknown = set(tasks) - known.keys()
    if unknown:
        raise UserError(f"tasks={min(unknown)}: there are {', '.join(known)}")
    return [known[task] for task in tasks] or list(files)


def find_video(data: Path, file: str, video: str) -> str:
    """Where a row's video is, or was published to be."""
    root = data / "MLVU" if (data / "MLVU").is_dir() else data
    return find_media([root / "video" / file], video)


def _unanswerable(record: Record) -> str | None:
    """The public file's known faults: rows that are empty, and answers that no candidate has."""
    fields = [record.values.get(field, "absent") for field in ("video", "question", "answer", "candidates")]
    if not any(any(field) if isinstance(field, list) else field for field in fields):
        return "the row is empty"
    candidates, answer = record.values.get("candidates"), record.values.get("answer")
    if not isinstance(answer, str) or not answer.strip() or not isinstance(candidates, list) or len(candidates) != 4:
        return None  # a broken row, which is another matter
    fits = any(isinstance(candidate, str) and candidate.strip() == answer.strip() for candidate in candidates)
    return None if fits else "the answer is none of the candidates"
