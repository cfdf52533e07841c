"""Does training teach? The tiny model learns the colour of a needle in a video, from random weights.

    python -m tests.benchmarks.training_needle [--stills 480] [--videos 400] [--heldout 96]

Writes a synthetic corpus (a coloured shape is visible for about one of 26 seconds; eight colours, so chance is 1/8),
stores its features, and trains as published: the image stage on stills, its export, the video stage on videos, each by
the command line with the shipped configuration. Prints the share of unseen videos whose colour the model names word for
word, before and after, and the seconds that the training commands took, everything included. Exits with 1 below the
floor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.corpus import CorpusConfig, VideoPlan, plan_corpus, write_corpus
from pipelines.corpus.needle import COLOURS, MORE_COLOURS
from pipelines.corpus.writer import draw_frames
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers, model_folder
from tests.pipelines.extract.conftest import extract_without_ray

_FLOOR, _MOST_S = 0.90, 300.0
_COLOURS = (*COLOURS, *MORE_COLOURS)
_QUESTION = "What colour is the shape?"


def corpus_config(num_videos: int, seed: int) -> CorpusConfig:
    return CorpusConfig(
        num_videos=num_videos,
        seconds=26,
        seed=seed,
        width=96,
        height=96,
        fps=2,
        scenes=(1, 2),
        needle_seconds=(1.0, 1.2),
        needle_area=0.12,
        colours=_COLOURS,
        kinds=("colour",),
        answer_form="text",
    )


def main() -> int:
    options = _arguments()
    with contextlib.ExitStack() as stack:
        root = Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="longvu-needle-")))
        store = _data(root, options)
        shared = [f"data.media_root={root}", f"data.store={store}", f"output={root}", f"workdir={root}"]
        shared += [f"data.heldout={root / 'heldout.json'}"]
        started_s = time.monotonic()
        image = _train("train_tiny_image", [f"data.annotations={root / 'stills.json'}", *shared])
        stills_s = time.monotonic() - started_s
        exported = root / "image-stage"
        _run(["export", image["checkpoint"], str(exported)])
        video = _train("train_tiny_video", [f"data.annotations={root / 'videos.json'}", f"model={exported}", *shared])
        seconds = time.monotonic() - started_s
    share = float(video["heldout.exact_match"])
    print(
        f"colour of the needle in {options.heldout} unseen videos: {share:.1%} right after {seconds:.0f} s of training "
        f"on two workers, {stills_s:.0f} s of it the image stage, after which it was "
        f"{float(image['heldout.exact_match']):.1%}; chance {1 / len(_COLOURS):.1%} "
        f"(floors {_FLOOR:.0%}, {_MOST_S:g} s)"
    )
    return 0 if share >= _FLOOR and seconds <= _MOST_S else 1


def _data(root: Path, options: argparse.Namespace) -> str:
    """Stills, videos, annotations and the store of their features; the store's URI."""
    stills = plan_corpus(corpus_config(options.stills, 1))
    (root / "stills").mkdir(parents=True, exist_ok=True)
    for plan in stills:
        _still(plan, corpus_config(options.stills, 1), root / "stills" / f"{plan.video_id}.png")
    rows = [_still_row(plan) for plan in stills]
    (root / "stills.json").write_text(json.dumps(rows))
    for name, count, seed in (("videos", options.videos, 2), ("heldout", options.heldout, 3)):
        corpus = write_corpus(root / name, corpus_config(count, seed))
        rows = json.loads(corpus.annotations.read_text())
        for row in rows:
            row["video"] = f"{name}/{row['video']}"
        (root / f"{name}.json").write_text(json.dumps(rows))
    names = ("stills", "videos/videos", "heldout/videos")
    config = ExtractConfig(
        source=[str(root / name) for name in names],
        store=str(root),
        workdir=str(root),
        keep_all_below=0,
        features={"siglip": True},  # type: ignore[arg-type]
    )
    return extract_without_ray(config, load_towers(model_folder("tiny", root), ("dinov2", "siglip"))).uri


def _still(plan: VideoPlan, config: CorpusConfig, path: Path) -> None:
    """The frame in the middle of the needle's time."""
    wanted = round((plan.needle.start_s + plan.needle.end_s) / 2 * config.fps)
    for number, frame in enumerate(draw_frames(plan, config)):
        if number == wanted:
            frame.save(path)
            return


def _still_row(plan: VideoPlan) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{_QUESTION}"}, {"from": "gpt", "value": plan.needle.colour}]
    return {"id": plan.video_id, "image": f"stills/{plan.video_id}.png", "conversations": turns}


def _train(config: str, words: list[str]) -> dict[str, str]:
    """Train; what the command printed, by name."""
    printed = _run(["train", "--config", f"jobs/configs/{config}.yaml", *words])
    told = dict(re.findall(r"([\w.]+) ([\d.e+-]+)", printed.splitlines()[0]))
    checkpoint = re.search(r"^checkpoint: (\S+)$", printed, re.MULTILINE)
    assert checkpoint is not None, printed
    return told | {"checkpoint": checkpoint[1]}


def _run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, "-m", "jobs.train", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"jobs.train {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [line for line in done.stderr.splitlines() if "step " in line]
    print("\n".join(lines), file=sys.stderr, flush=True)
    return done.stdout[done.stdout.rfind("\n", 0, done.stdout.find("steps:")) + 1 :]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_needle", description=__doc__)
    parser.add_argument("--stills", type=int, default=480, help="stills to learn from")
    parser.add_argument("--videos", type=int, default=400, help="videos to learn from")
    parser.add_argument("--heldout", type=int, default=96, help="unseen videos")
    parser.add_argument("--folder", help="keep everything here; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
