"""Needle in a video haystack (MM-NIAVH): one second of something unmistakable in footage of up to minutes or hours.

Every cell of a grid of lengths and depths is a video composed here (:mod:`pipelines.evaluate.tasks.needle_composition`)
and asked about once; a judge scores the answer from 1 to 10.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.tasks import heat_map
from pipelines.evaluate.tasks.base import Judged, Messages, Preset, Row, Task
from pipelines.evaluate.tasks.judge import needle_messages, read_rating
from pipelines.evaluate.tasks.media import Clip, Shown
from pipelines.evaluate.tasks.needle_composition import Modality, Needle, cell_file_name, compose
from pipelines.evaluate.tasks.needle_grid import Cell, Spacing, depths, grid, lengths, result_name

QUESTION = "What is the young man seated on a cloud in the sky doing? Response the young man's action only."
DESCRIPTION = "the young man seated on a cloud in the sky is reading a book"
NEEDLES: dict[Modality, str] = {
    "video": "haystack/readingsky.mp4",
    "image": "haystack/readingsky.png",
    "text": "\nA young man is sitting on a piece of cloud in the sky, reading a book.\n",
}
BEST, WORST = 10, 1


class Options(Config):
    modality: Modality = setting("video", about="the needle: video, image or text")
    needle: str = setting(
        "", about="the needle's file, in the data folder or absolute, or its text; empty: the published one"
    )
    haystack: str = setting("haystack/ego", about="a video or a folder of .mp4 files, in the data folder or absolute")
    font: str = setting(
        "", about="font file of a text needle, in the data folder or absolute, published FreeSans; empty: Pillow's own"
    )
    question: str = setting(QUESTION, about="what is asked")
    description: str = setting(DESCRIPTION, about="what an image or a video needle shows: the judge's reference")
    shortest_s: int = setting(1, about="shortest video in seconds", ge=1)
    longest_s: int = setting(320, about="longest video in seconds", ge=1)
    num_lengths: int = setting(40, about="number of lengths, evenly spaced", ge=1)
    lengths_s: tuple[int, ...] = setting((), about="lengths in seconds instead, such as [30, 60]")
    num_depths: int = setting(12, about="number of depths from 0 to 100 per cent", ge=1, le=101)
    spacing: Spacing = setting(
        "linear",
        about="of depths: linear, sigmoid (denser at both ends), or sigmoid_published (the inverted published one)",
    )
    depths_percent: tuple[float, ...] = setting((), about="depths in per cent instead, such as [0, 50, 100]")
    scoring: Literal["judge", "keywords"] = setting(
        "judge", about="judge: 1 to 10 as published; keywords: 10 if the answer has all of them, else 1"
    )
    keywords: tuple[str, ...] = setting(("reading", "book"), about="for scoring=keywords, in lower case")


class NeedleHaystack(Task):
    """Rows are cells, length by length; ids are ``modality_<m>_len_<s>_depth_<100 * depth>``."""

    name = "needle_haystack"
    about = "NIAVH: a one-second video, image or text needle by depth and length; judge 1-10, heat map"
    kind = "score10"
    source = "github.com/bigai-nlco/MM-NIAVH (needles); the footage is an Ego4D clip under its licence, or your own"
    layout = """\
haystack/ego/*.mp4           (footage)
haystack/readingsky.mp4      (modality=video)
haystack/readingsky.png      (modality=image)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(
            about="this project's: one frame per second, greedy", style="niavh", sampling="fps:1", max_new_tokens=128
        ),
        "videollamb": Preset(
            about="VideoLLaMB-Mem in MM-NIAVH: one frame per second, at most 512 evenly spaced",
            style="niavh",
            sampling="fps:1,max:512",
            max_new_tokens=512,
            temperature=0.2,
        ),
        "longva": Preset(
            about="LongVA in MM-NIAVH: one frame per second", style="niavh", sampling="fps:1", max_new_tokens=1024
        ),
        "pllava": Preset(
            about="PLLaVA in MM-NIAVH: 320 frames",
            style="niavh",
            sampling="uniform:320",
            max_new_tokens=200,
            temperature=0.2,
        ),
    }

    @property
    def needs_judge(self) -> bool:
        return bool(self.options.scoring == "judge")

    def cells(self) -> list[Cell]:
        """The grid of the options. Raises UserError: a length or a depth is out of range."""
        chosen = self.options
        times = list(chosen.lengths_s) or lengths(chosen.shortest_s, chosen.longest_s, chosen.num_lengths)
        shares = list(chosen.depths_percent) or depths(0, 100, chosen.num_depths, chosen.spacing)
        for field, values, allowed in (("lengths_s", times, range(1, 1 << 31)), ("depths_percent", shares, None)):
            for value in values:
                if not (value in allowed if allowed else 0 <= value <= 100):
                    raise UserError(f"{field}={value}: use {'1 second or more' if allowed else '0 to 100 per cent'}")
        return grid(times, shares)

    def needle(self, data: Path) -> Needle:
        modality = self.options.modality
        source = self.options.needle or NEEDLES[modality]
        if modality != "text":
            source = str(self.file(data, source).absolute())
        font = str(self.file(data, self.options.font).absolute()) if self.options.font else ""
        return Needle(modality, source, font)

    def load(self, data: Path) -> Iterator[Row]:
        needle, cells = self.needle(data), self.cells()
        haystack = self.file(data, self.options.haystack).absolute()
        if not (haystack.is_file() or any(haystack.glob("*.mp4"))):
            raise UserError(f"{self.name}: {haystack} has no .mp4 files. {self.where_from()}")
        longest_s = max(cell.length_s for cell in cells)
        reference = needle.source if needle.modality == "text" else self.options.description
        for cell in cells:
            file = cell_file_name(cell, needle.modality, longest_s)
            yield Row(
                id=cell.name(needle.modality),
                question=self.options.question,
                clip=Clip(file),
                answer=reference,
                categories={"length_s": str(cell.length_s), "depth_percent": f"{cell.depth_percent:g}"},
                cluster=file,
                details={"cell": cell, "needle": needle, "haystack": str(haystack), "longest_s": longest_s},
                where=f"grid:{cell.length_s}s:{cell.depth_percent:g}%",
            )

    def shown(self, row: Row, made: Path) -> Shown:
        details = row.details
        haystack = Path(details["haystack"])
        return Shown(compose(details["cell"], details["needle"], haystack, details["longest_s"], made), self.sampling)

    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        return model_prompt(row.question)

    def score(self, row: Row, reply: str) -> Judged:
        """10 or 1 by keywords, for runs without a judge; the published maps are not made this way."""
        said = reply.strip()
        if not said:
            return Judged("unparsed")
        found = all(keyword in said.lower() for keyword in self.options.keywords)
        return Judged("scored", said, float(BEST if found else WORST), {"by": "keywords"})

    def judge_messages(self, row: Row, reply: str) -> Messages:
        assert row.answer is not None
        return needle_messages(row.question, row.answer, reply)

    def judged(self, row: Row, reply: str, judge_reply: str) -> Judged:
        said = reply.strip()
        if not said:
            return Judged("unparsed")
        rating = read_rating(judge_reply)
        return Judged("judge_failed", said) if rating is None else Judged("scored", said, float(rating))

    def plots(self, answered: Sequence[tuple[Row, Judged]], folder: Path) -> list[Path]:
        """The heat map of the cells that have a score."""
        cells = [(row.details["cell"], judged.score) for row, judged in answered if judged.score is not None]
        if not cells:
            return []
        table = heat_map.pivot((cell.length_s, cell.depth_percent, score) for cell, score in cells)
        title = f"Needle in a video haystack: {self.options.modality} needle, scored by {self.options.scoring}"
        return [heat_map.draw(table, folder / f"niavh_{self.options.modality}.png", title=title)]

    def published_results(self, model: str, scored: Sequence[tuple[Row, str, Judged]]) -> dict[str, bytes]:
        """``results/<model>/<name>_results.json`` for every cell, as the published notebook reads them, in one zip."""
        files = io.BytesIO()
        with zipfile.ZipFile(files, "w") as archive:
            for row, reply, judged in scored:
                name, content = published_result(model, row, reply, judged)
                archive.writestr(f"results/{model.replace('.', '_')}/{name}_results.json", json.dumps(content))
        return {"niavh_results.zip": files.getvalue()}

    def settings(self) -> dict[str, Any]:
        scored = needle_messages("{question}", "{reference}", "{reply}") if self.needs_judge else "keywords"
        return {**super().settings(), "prompt": model_prompt("{question}"), "scored_by": scored}


def model_prompt(question: str) -> str:
    """The question as every model is asked it."""
    return (
        f"Question: {question}\nProvide a concise and relevant response based on the content of the image. Avoid "
        "including information not present in the image or repeating details unnecessarily. Formulate your answer "
        "clearly and coherently.\nAnswer: "
    )


def published_result(model: str, row: Row, reply: str, judged: Judged) -> tuple[str, dict[str, Any]]:
    """A cell's result as the published code writes it: name without extension, and content without times."""
    cell, needle = row.details["cell"], row.details["needle"]
    name = result_name(model, cell, needle.modality)
    return name, {
        "model": model,
        "context_length": cell.length_s,
        "depth_percent": cell.depth_percent,
        "version": 1,
        "needle": needle.source,
        "model_response": reply,
        "score": None if judged.score is None else int(judged.score),
        "file_name": name,
    }
