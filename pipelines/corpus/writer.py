"""Writing a corpus: MP4 files, annotations for training, questions for evaluation, and the manifest that seals them.

<directory>/videos/<video_id>.mp4     H.264 with B-frames
            annotations.json          LLaVA-style: id, video, conversations
            questions.jsonl           one question per line: options, answer, needle, cuts
            manifest.json             config, digest, counts; written last, so its presence means "finished"
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipelines.corpus.config import CorpusConfig, CorpusError
from pipelines.corpus.needle import needle_sprite
from pipelines.corpus.plan import LETTERS, Question, VideoPlan, plan_corpus
from pipelines.corpus.scenes import Scene, SensorNoise

FADE_S = 0.2


@dataclass(frozen=True)
class CorpusManifest:
    """A finished corpus. ``videos`` are in order of their ids; paths are absolute."""

    directory: Path
    config: CorpusConfig
    digest: str
    videos: tuple[Path, ...]
    num_questions: int

    @property
    def annotations(self) -> Path:
        return self.directory / "annotations.json"

    @property
    def questions(self) -> Path:
        return self.directory / "questions.jsonl"

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> CorpusManifest:
        """Read a finished corpus.

        Raises:
            CorpusError: there is no finished corpus here, or one of its videos is gone.
        """
        root = Path(directory).resolve()
        path = root / "manifest.json"
        if not path.is_file():
            raise CorpusError(f"{root}: no finished corpus here (no manifest.json); write one with write_corpus")
        record = json.loads(path.read_text())
        videos = tuple(root / "videos" / f"{video_id}.mp4" for video_id in record["videos"])
        missing = [video.name for video in videos if not video.is_file()]
        if missing:
            raise CorpusError(f"{root}: {missing[0]} is in the manifest but gone; delete manifest.json and write again")
        return cls(root, CorpusConfig(**record["config"]), record["digest"], videos, record["num_questions"])


def write_corpus(
    directory: str | os.PathLike[str],
    config: CorpusConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    pool: Executor | None = None,
) -> CorpusManifest:
    """Write the corpus of ``config`` into ``directory``; return at once if it is already there.

    The same config gives the same bytes. A run that was interrupted is started over.

    Args:
        progress: called with the number of videos written and of all, after each.
        pool: processes that draw; without one, this process does.

    Raises:
        CorpusError: ``directory`` holds a finished corpus of another config, or videos that are not of this one.
    """
    config = config or CorpusConfig()
    root = Path(directory).resolve()
    if (root / "manifest.json").is_file():
        done = CorpusManifest.load(root)
        if done.digest != config.digest():
            raise CorpusError(
                f"{root} holds a corpus of another configuration (digest {done.digest[:12]}, asked for "
                f"{config.digest()[:12]}): choose another directory or delete this one"
            )
        return done
    plans = plan_corpus(config)
    (root / "videos").mkdir(parents=True, exist_ok=True)
    foreign = {path.stem for path in (root / "videos").iterdir()} - {plan.video_id for plan in plans}
    if foreign:
        raise CorpusError(
            f"{root / 'videos'} holds {min(foreign)}, which is not of this corpus: choose another directory"
        )
    draw = functools.partial(_write_video, config=config, folder=root / "videos")
    for count, _ in enumerate(pool.map(draw, plans) if pool else map(draw, plans), 1):
        if progress is not None:
            progress(count, len(plans))
    rows = [question_row(plan, number, config) for plan in plans for number in range(len(plan.questions))]
    samples = [sample(plan, number, config) for plan in plans for number in range(len(plan.questions))]
    write_whole(root / "annotations.json", json.dumps(samples, indent=1) + "\n")
    write_whole(root / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "digest": config.digest(),
        "config": dataclasses.asdict(config),
        "videos": [plan.video_id for plan in plans],
        "num_questions": len(rows),
    }
    write_whole(root / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return CorpusManifest.load(root)


def _write_video(plan: VideoPlan, config: CorpusConfig, folder: Path) -> None:
    path = folder / f"{plan.video_id}.mp4"
    partial = path.with_suffix(".partial")
    encode_video(partial, draw_frames(plan, config), config)
    os.replace(partial, path)


def draw_frames(plan: VideoPlan, config: CorpusConfig, only: Collection[int] | None = None) -> Iterator[Image.Image]:
    """Frames of a video in order, RGB: every one, or those whose numbers are given."""
    rng = np.random.default_rng(plan.pixel_seed)
    edges_s = [0.0, *plan.cuts_s, config.seconds]
    noise = SensorNoise(rng, config.width, config.height)
    needle = needle_sprite(plan.needle.colour, plan.needle.shape, config.needle_area * config.width * config.height)
    for number, painter in enumerate(plan.painters):
        begin_s, end_s = edges_s[number : number + 2]
        palette = plan.palettes[number]
        scene = Scene(painter, palette, rng, width=config.width, height=config.height, length_s=end_s - begin_s)
        for frame in range(round(begin_s * config.fps), round(end_s * config.fps)):
            if only is not None and frame not in only:
                continue
            t_s = frame / config.fps
            picture = scene.frame(t_s - begin_s)
            if plan.needle.start_s <= t_s < plan.needle.end_s:
                _place(needle, picture, plan, t_s)
            yield noise.apply(picture, frame)


def _place(sprite: Image.Image, picture: Image.Image, plan: VideoPlan, t_s: float) -> None:
    """Paste the needle, fading in and out at the ends of its time."""
    needle = plan.needle
    presence = min((t_s - needle.start_s) / FADE_S + 0.5, (needle.end_s - t_s) / FADE_S, 1.0)
    x, y = needle.centre_xy
    corner = (round(x - sprite.width / 2), round(y - sprite.height / 2))
    picture.paste(sprite.convert("RGB"), corner, sprite.getchannel("A").point(lambda level: level * presence))


def encode_video(path: Path, frames: Iterator[Image.Image], config: CorpusConfig) -> None:
    """Write ``frames`` as an MP4 file: H.264, 4:2:0, two B-frames, key frames at cuts and every ``gop`` frames."""
    options = {
        "preset": "veryfast",
        "crf": str(config.crf),
        "g": str(config.gop),
        "bf": "2",
        # The same bytes everywhere: with several threads x264's decisions depend on their number, and with macroblock
        # trees x264 165 writes another file now and then on CPUs with AVX-512 (up to one run in three, on a busy one).
        "threads": "1",
        "x264-params": "mbtree=0",
    }
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=config.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode())


def prompt(question: Question) -> str:
    """The question with its options, as MVBench is asked (SEMANTICS section 15)."""
    options = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, question.options, strict=False))
    request = "Answer with the option's letter from the given choices directly and only give the best option."
    return f"Question: {question.text}\nOptions:\n{options}\n{request}"


def sample(plan: VideoPlan, number: int, config: CorpusConfig) -> dict[str, Any]:
    """A LLaVA-style training sample."""
    question = plan.questions[number]
    by_letter = config.answer_form == "letter"
    ask, answer = (prompt(question), question.letter) if by_letter else (question.text, question.answer)
    return {
        "id": f"{plan.video_id}-{question.kind}",
        "video": f"videos/{plan.video_id}.mp4",
        "conversations": [{"from": "human", "value": f"<video>\n{ask}"}, {"from": "gpt", "value": answer}],
    }


def question_row(plan: VideoPlan, number: int, config: CorpusConfig) -> dict[str, Any]:
    """A line of ``questions.jsonl``."""
    question = plan.questions[number]
    return {
        "question_id": f"{plan.video_id}-{question.kind}",
        "video_id": plan.video_id,
        "video": f"videos/{plan.video_id}.mp4",
        "kind": question.kind,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "answer_letter": question.letter,
        "needle": dataclasses.asdict(plan.needle),
        "scene_cuts_s": list(plan.cuts_s),
        "duration_s": config.frames_per_video / config.fps,
        "fps": config.fps,
    }


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
