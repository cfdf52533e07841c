"""What a model learns needles from and is tested on: stills, training videos and unseen videos, with annotations.

<folder>/stills/<id>.png        the frame in the middle of a needle's time, for the image stage
         stills.json            LLaVA-style, as the two below; media paths start at <folder>
         train/                 a corpus, see writer.py
         train.json
         heldout/               a corpus of other scenes and needles: what evaluation asks about
         heldout.json
         splits.json            configuration and digest; written last, so its presence means "finished"
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Config, setting
from pipelines.corpus.config import CorpusConfig, CorpusError
from pipelines.corpus.needle import COLOURS, MORE_COLOURS
from pipelines.corpus.plan import VideoPlan, plan_corpus
from pipelines.corpus.processes import drawing_processes
from pipelines.corpus.writer import draw_frames, write_corpus, write_whole

STILL_QUESTION = "What colour is the shape?"
_SEAL = "splits.json"


class SplitsConfig(Config):
    """Everything that fixes the bytes of the three splits."""

    stills: int = setting(480, about="pictures to learn colours from", ge=1)
    videos: int = setting(700, about="videos to learn from", ge=1)
    heldout: int = setting(96, about="videos for evaluation, of other seeds than those to learn from", ge=1)
    seed: int = setting(0, about="another seed gives other scenes, needles and answers in all three", ge=0)
    seconds: float = setting(60.0, about="length of each video in seconds")
    width: int = setting(96, about="of the videos in pixels")
    height: int = setting(96, about="of the videos in pixels")
    fps: int = setting(2, about="frames per second of the files")
    scenes: tuple[int, ...] = setting((1, 2), about="numbers of scenes that a video may have")
    needle_seconds: tuple[float, float] = setting((1.5, 1.5), about="shortest and longest time a needle is visible")
    needle_area: float = setting(0.12, about="fraction of the frame that a needle covers")
    colours: tuple[str, ...] = setting((*COLOURS, *MORE_COLOURS), about="colours that a needle may have")

    def corpus(self, split: str) -> CorpusConfig:
        """The corpus behind ``stills``, ``videos`` or ``heldout``."""
        number = ("stills", "videos", "heldout").index(split)
        return CorpusConfig.with_look_of(
            self,
            num_videos=getattr(self, split),
            seconds=self.seconds,
            seed=3 * self.seed + 1 + number,
            needle_seconds=self.needle_seconds,
            kinds=("colour",),
            answer_form="text",
        )


@dataclass(frozen=True)
class Splits:
    """Where the finished splits are; media paths of the annotations start at ``folder``."""

    folder: Path

    @property
    def stills(self) -> Path:
        return self.folder / "stills.json"

    @property
    def train(self) -> Path:
        return self.folder / "train.json"

    @property
    def heldout(self) -> Path:
        return self.folder / "heldout.json"

    @property
    def heldout_corpus(self) -> Path:
        """What the evaluation task ``needle_synthetic`` takes as ``data=``."""
        return self.folder / "heldout"

    @property
    def media(self) -> list[Path]:
        """Folders with everything that annotations name."""
        return [self.folder / "stills", self.folder / "train" / "videos", self.folder / "heldout" / "videos"]


def write_splits(
    folder: str | os.PathLike[str], config: SplitsConfig, progress: Callable[[int, int], None] | None = None
) -> Splits:
    """Write the splits of ``config``; return at once if they are already there.

    The same configuration gives the same files. After an interruption finished splits are kept.

    Args:
        progress: called with the number of pictures and videos written and of all, after each.

    Raises:
        CorpusError: ``folder`` holds splits of another configuration, or a field is outside its range.
    """
    root = Path(folder).resolve()
    seal = root / _SEAL
    if seal.is_file():
        there = json.loads(seal.read_text())["digest"]
        if there != config.digest():
            raise CorpusError(
                f"{root} holds splits of another configuration (digest {there[:12]}, asked for {config.digest()[:12]}"
                f"): choose another folder or delete this one"
            )
        return Splits(root)
    total, before = config.stills + config.videos + config.heldout, 0

    def count(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    with drawing_processes() as pool:
        _write_stills(root, config.corpus("stills"), pool, count)
        for name, split in (("train", "videos"), ("heldout", "heldout")):
            before += getattr(config, "stills" if name == "train" else "videos")
            corpus = write_corpus(root / name, config.corpus(split), count, pool)
            rows = json.loads(corpus.annotations.read_text())
            rows = [row | {"video": f"{name}/{row['video']}"} for row in rows]
            write_whole(root / f"{name}.json", json.dumps(rows, indent=1) + "\n")
    record = {"digest": config.digest(), "config": config.model_dump(mode="json")}
    write_whole(seal, json.dumps(record, indent=1) + "\n")
    return Splits(root)


def _write_stills(
    root: Path, config: CorpusConfig, pool: ProcessPoolExecutor, progress: Callable[[int, int], None]
) -> None:
    plans = plan_corpus(config)
    (root / "stills").mkdir(parents=True, exist_ok=True)
    draw = functools.partial(_draw_still, config=config, folder=root / "stills")
    for done, _ in enumerate(pool.map(draw, plans, chunksize=8), 1):
        progress(done, len(plans))
    write_whole(root / "stills.json", json.dumps([_still_row(plan) for plan in plans], indent=1) + "\n")


def _draw_still(plan: VideoPlan, config: CorpusConfig, folder: Path) -> None:
    """The frame in the middle of the needle's time."""
    number = round((plan.needle.start_s + plan.needle.end_s) / 2 * config.fps)
    (frame,) = draw_frames(plan, config, only=(number,))
    frame.save(folder / f"{plan.video_id}.png")


def _still_row(plan: VideoPlan) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{STILL_QUESTION}"}, {"from": "gpt", "value": plan.needle.colour}]
    return {"id": plan.video_id, "image": f"stills/{plan.video_id}.png", "conversations": turns}
