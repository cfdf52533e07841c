"""MLVU (dev), generation: describing a scene and summarising a video, scored by a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipelines.evaluate.tasks.base import Judged, Messages, Preset, Row, Task
from pipelines.evaluate.tasks.judge import generation_messages, read_generation_scores
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.mlvu import LONGVU, MLVU, SOURCE, Options, chosen_files, find_video, task_of
from pipelines.evaluate.tasks.records import Record, json_records

GENERATION_FILES = ("8_sub_scene", "9_summary")
ASPECTS = {"sub_scene": ("accuracy", "relevance"), "summary": ("completeness", "reliability")}
_TYPES = {"sub_scene": "subPlot"}


class MLVUGeneration(Task):
    """Rows of ``json/8_sub_scene.json`` and ``9_summary.json``; a judge gives two scores of 1 to 5, the sum counts.

    The headline is G-Avg, the mean of the two tasks' mean sums (2 to 10).
    """

    name = "mlvu_generation"
    about = "descriptions of scenes and summaries, scored 2-10 by a judge (dev); headline G-Avg"
    kind = "score10"
    source = SOURCE
    layout = MLVU.layout
    Options = Options
    mean_over = "task"
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(
            about="the bare question at LongVU's settings for MLVU",
            style="bare",
            sampling=LONGVU.sampling,
            max_new_tokens=512,
            model_settings=LONGVU.model_settings,
        ),
        "official": Preset(
            about="MLVU's own open_bench.py (VideoChat2): the middle of 16 equal parts",
            style="bare",
            sampling="uniform:16",
            segments=16,
            max_new_tokens=1000,
            system=(
                "Carefully watch this video and pay attention to every detail. Based on your observations, answer the "
                "given questions.\n"
            ),
        ),
    }

    @property
    def needs_judge(self) -> bool:
        return True

    def load(self, data: Path) -> Iterator[Row]:
        for file in chosen_files(GENERATION_FILES, self.options.tasks):
            for record in json_records(self.file(data, f"MLVU/json/{file}.json", f"json/{file}.json"), data):
                yield self._row(data, file, record)

    def _row(self, data: Path, file: str, record: Record) -> Row:
        task, video = task_of(file), record.text("video")
        record.one_of("question_type", (task, _TYPES.get(task, task)))
        points = record.texts("scoring_points", 1, 100) if task == "sub_scene" else ()
        return Row(
            id=f"{task}/{record.number - 1}",
            question=record.text("question"),
            clip=Clip(find_video(data, file, video)),
            answer=record.text("answer"),
            categories={"task": task},
            cluster=video,
            details={"scoring_points": points},
            where=record.where,
        )

    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        return row.question

    def score(self, row: Row, reply: str) -> Judged:
        """Only a judge can score these; says whether there is anything to judge."""
        return Judged("judge_failed" if reply.strip() else "unparsed")

    def judge_messages(self, row: Row, reply: str) -> Messages:
        assert row.answer is not None
        aspects = ASPECTS[row.categories["task"]]
        return generation_messages(row.question, row.answer, row.details["scoring_points"], reply, aspects)

    def judged(self, row: Row, reply: str, judge_reply: str) -> Judged:
        """The sum of the two scores; both are in ``detail``."""
        if not reply.strip():
            return Judged("unparsed")
        aspects = ASPECTS[row.categories["task"]]
        scores = read_generation_scores(judge_reply, aspects)
        if scores is None:
            return Judged("judge_failed", reply.strip())
        return Judged("scored", reply.strip(), sum(scores), dict(zip(aspects, scores, strict=True)))

    def settings(self) -> dict[str, Any]:
        judges = {
            task: generation_messages(
                "{question}", "{reference}", ["{point}"] * (task == "sub_scene"), "{reply}", aspects
            )
            for task, aspects in ASPECTS.items()
        }
        return {**super().settings(), "prompt": "{question}", "scored_by": judges}
