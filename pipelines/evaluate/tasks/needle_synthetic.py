"""The synthetic needle: multiple choice about videos of ``pipelines.corpus``, whose answers are true by construction.

Two tasks: the questions of a written corpus, and a grid of lengths and depths whose videos are drawn when asked for,
which gives a model that knows only the synthetic world a heat map of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.config import Config, setting
from pipelines.corpus import KINDS, CorpusConfig, VideoPlan, plan_corpus
from pipelines.corpus.needle import COLOURS, SHAPES
from pipelines.corpus.writer import draw_frames, encode_video
from pipelines.errors import UserError
from pipelines.evaluate.tasks import heat_map
from pipelines.evaluate.tasks.base import LETTERS, Judged, Preset, Row
from pipelines.evaluate.tasks.choice import BARE_STYLE, MVBENCH_STYLE, ChoiceStyle, ChoiceTask
from pipelines.evaluate.tasks.media import Clip, Shown, whole_file
from pipelines.evaluate.tasks.needle_grid import Spacing, depths
from pipelines.evaluate.tasks.records import Record, json_line_records

Kind = Literal["colour", "shape", "time", "scenes"]
_PRESETS = {
    "default": Preset(
        about="the question that the corpus teaches, one frame per second",
        style="mvbench",
        sampling="fps:1",
        max_new_tokens=5,
    ),
    "text": Preset(
        about="the bare question, as a corpus with answer_form=text teaches it, one frame per second",
        style="bare",
        sampling="fps:1",
        max_new_tokens=8,
    ),
}
_STYLES = {"mvbench": MVBENCH_STYLE, "bare": BARE_STYLE}
_QUARTERS = ("first", "second", "third", "last")


class Options(Config):
    kinds: tuple[Kind, ...] = setting(KINDS, about="questions to ask: some of colour, shape, time, scenes")


class SyntheticNeedle(ChoiceTask):
    """Rows of a corpus' ``questions.jsonl``; ids are ``question_id``."""

    name = "needle_synthetic"
    about = "colour, shape, time and scenes of a shape in synthetic videos; answers true by construction"
    source = "`longvu corpus FOLDER`, which writes them; nothing is downloaded"
    layout = """\
questions.jsonl
videos/<video_id>.mp4"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = _PRESETS
    styles: ClassVar[Mapping[str, ChoiceStyle]] = _STYLES

    def load(self, data: Path) -> Iterator[Row]:
        for record in json_line_records(self.file(data, "questions.jsonl"), data):
            if record.one_of("kind", KINDS) in self.options.kinds:
                yield self._row(data, record)

    @staticmethod
    def _row(data: Path, record: Record) -> Row:
        options, needle = record.texts("options", 2, len(LETTERS)), record.get("needle")
        answer = record.text("answer")
        if answer not in options:
            raise record.error("answer", "is none of the options")
        if not isinstance(needle, dict) or not isinstance(needle.get("start_s"), int | float):
            raise record.error("needle", "must say when the shape appears (start_s)")
        duration_s = record.number_of("duration_s")
        depth = needle["start_s"] / duration_s
        return Row(
            id=record.text("question_id"),
            question=record.text("question"),
            clip=Clip(str((data / record.text("video")).absolute())),
            options=options,
            answer=LETTERS[options.index(answer)],
            categories={"kind": record.text("kind"), "quarter": _QUARTERS[min(3, int(4 * depth))]},
            cluster=record.text("video_id"),
            where=record.where,
        )


class GridOptions(Config):
    lengths_s: tuple[int, ...] = setting((30, 60, 120, 240), about="lengths of the videos in seconds, each 30 or more")
    num_depths: int = setting(5, about="number of depths from 0 to 100 per cent", ge=1, le=101)
    spacing: Spacing = setting("linear", about="of depths: linear, sigmoid, or sigmoid_published (the inverted one)")
    repeats: int = setting(6, about="videos per cell, each with another needle, the same in every cell", ge=1)
    kind: Literal["colour", "shape"] = setting("colour", about="what is asked: colour or shape")
    fps: int = setting(5, about="frames per second of the videos, of which one per second is sampled", ge=1, le=60)
    width: int = setting(320, about="of the videos in pixels")
    height: int = setting(180, about="of the videos in pixels")
    scenes: tuple[int, ...] = setting((2, 3), about="numbers of scenes that a video may have")
    colours: tuple[str, ...] = setting(tuple(COLOURS), about="colours that a shape may have")
    needle_area: float = setting(0.1, about="share of the frame that the shape covers")
    needle_s: float = setting(2.0, about="seconds for which the needle is seen", ge=1, le=4)
    seed: int = setting(1000, about="of the videos; take another than that of the corpus a model learned from", ge=0)


class SyntheticNeedleGrid(ChoiceTask):
    """Rows are cells times repeats, drawn on demand; ids are ``len_<s>_depth_<%>_<repeat>``.

    Every cell has the same needles in the same places, so that cells differ by length and depth alone.
    """

    name = "needle_grid"
    about = "the synthetic needle by depth and length of video, drawn on demand; heat map"
    source = "nowhere: its videos are drawn when they are asked for"
    layout = "(no files; any folder will do)"
    Options = GridOptions
    presets: ClassVar[Mapping[str, Preset]] = _PRESETS
    styles: ClassVar[Mapping[str, ChoiceStyle]] = _STYLES

    def load(self, data: Path) -> Iterator[Row]:
        chosen = self.options
        shares = depths(0, 100, chosen.num_depths, chosen.spacing)
        for length_s in chosen.lengths_s:
            config = self._config(length_s)
            plans = plan_corpus(config)
            for depth, (number, plan) in product(shares, enumerate(plans)):
                yield self._row(config, plan, depth, number)

    def _config(self, length_s: int) -> CorpusConfig:
        chosen = self.options
        try:
            return CorpusConfig.with_look_of(
                chosen,
                num_videos=chosen.repeats,
                seconds=length_s,
                seed=chosen.seed,
                needle_seconds=(chosen.needle_s, chosen.needle_s),
                kinds=(chosen.kind,),
            )
        except UserError as error:
            raise UserError(f"lengths_s={length_s}: {error}") from None

    def _row(self, config: CorpusConfig, plan: VideoPlan, depth: float, repeat: int) -> Row:
        start_s = (config.seconds - self.options.needle_s) * depth / 100
        needle = dataclasses.replace(plan.needle, start_s=start_s, end_s=start_s + self.options.needle_s)
        question, options = plan.questions[0], plan.questions[0].options
        if self.preset.style == "bare":  # then every answer that could be taught is an option
            options = config.colours if question.kind == "colour" else SHAPES
        name = f"len_{config.seconds:g}_depth_{depth:g}_{repeat}"
        return Row(
            id=name,
            question=question.text,
            clip=Clip(f"{config.digest()[:12]}_{name}.mp4"),
            options=options,
            answer=LETTERS[options.index(question.answer)],
            categories={"length_s": f"{config.seconds:g}", "depth_percent": f"{depth:g}"},
            cluster=f"needle_{repeat}",
            details={"plan": dataclasses.replace(plan, needle=needle), "config": config, "depth_percent": depth},
            where=f"grid:{config.seconds:g}s:{depth:g}%:{repeat}",
        )

    def shown(self, row: Row, made: Path) -> Shown:
        assert row.clip is not None
        path = made / "needle_grid" / row.clip.path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                encode_video(partial, draw_frames(row.details["plan"], row.details["config"]), row.details["config"])
        return Shown(path, self.sampling)

    def plots(self, answered: Sequence[tuple[Row, Judged]], folder: Path) -> list[Path]:
        """The heat map of the shares of right answers; a reply that commits to none is not right."""
        cells = [
            (row.details["config"].seconds, row.details["depth_percent"], judged.score or 0.0)
            for row, judged in answered
            if judged.status in ("scored", "unparsed")
        ]
        if not cells:
            return []
        title = f"Synthetic needle: {self.options.kind}, {self.options.repeats} videos per cell"
        path = folder / f"needle_grid_{self.options.kind}.png"
        return [
            heat_map.draw(heat_map.pivot(cells), path, title=title, label="Share of right answers", limits=(0.0, 1.0))
        ]
