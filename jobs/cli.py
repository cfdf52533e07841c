"""`longvu`: every job under one name.

A command is imported when it is called, so that `longvu --help` and a mistyped option answer at once. A mistake of the
user's (a wrong path, a file that is no video, a value out of range) ends with one line on stderr and exit code 2; a
traceback is a defect of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

# Jobs that read their own options: the words after the command go to the function as they are.
JOBS = {
    "corpus": ("jobs.corpus:main", "write synthetic videos: slow scenes, a short needle, questions"),
    "extract": ("jobs.extract:main", "videos -> feature store (Ray Data); resumes where it stopped"),
    "store": ("jobs.store:main", "look into a feature store: ls, show, verify, compact, sweep, quarantine"),
    "probe": ("jobs.probe:main", "decode one source as extraction would, and say what it is or why it fails"),
    "assemble": ("jobs.assemble:main", "released language model and towers + new weights -> a recipe's starting point"),
    "train": ("jobs.train:train_main", "samples + features -> checkpoints (Ray Train, DeepSpeed); resumes"),
    "plan": ("jobs.train:plan_main", "what a training run would do: samples, steps, balance"),
    "estimate": ("jobs.train:estimate_main", "memory, time, traffic and cost of a training run on N GPUs, without one"),
    "export": ("jobs.train:export_main", "a training checkpoint as a model folder, in our layout or the published one"),
    "eval": ("jobs.evaluate:main", "checkpoint or endpoint + benchmark -> scores with error bars; resumes"),
    "compare": ("jobs.evaluate:compare_main", "two evaluations, question by question"),
    "lineage": ("jobs.lineage:main", "from a run, checkpoint or served model back to every source, and forward"),
    "compare-methods": ("jobs.methods:main", "several checkpoints on the same videos: accuracy against visual tokens"),
    "serve": ("jobs.serve:main", "checkpoint -> OpenAI-compatible endpoint (Ray Serve), with a chat page if asked"),
    "chat": ("jobs.chat:main", "questions about a video in the terminal, with a model here or an endpoint"),
    "caption": ("jobs.caption:main", "captions of a video, camera or address while it plays (VideoLLaMB)"),
    "report": ("jobs.report:main", "one HTML page about a run folder: frames, losses, scores, answers"),
    "demo": ("jobs.demo:main", "the whole story from drawn videos to answers, or a look at your own video"),
}


class Parser(argparse.ArgumentParser):
    """Says a usage error on one line instead of after a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message.removeprefix('argument ')} (see {self.prog} --help)\n")


def checked(kind: Callable[[str], Any], allowed: Callable[[Any], bool], description: str) -> Callable[[str], Any]:
    """A type for argparse whose error says what is allowed."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"{text} is not {description}")
        return value

    return parse


RATE = checked(float, lambda value: 0 < value <= 1000, "a number of frames per second above 0, such as 1")
COUNT = checked(int, lambda value: value >= 1, "a whole number from 1 on")
FOLDER = checked(
    Path,
    lambda path: ":/" not in str(path),
    "a path: a model is read from a folder that every node sees, not from a bucket",
)
SEED = checked(int, lambda value: value >= 0, "a whole number from 0 on")
# At 0 or below no frame at all would be kept.
SIMILARITY = checked(float, lambda value: 0 < value <= 1, "a similarity: above 0 and at most 1, such as 0.83")


def add_watching(parser: argparse.ArgumentParser) -> None:
    """What every command on one video takes."""
    parser.add_argument("video", metavar="VIDEO", help="video, GIF or picture")
    parser.add_argument(
        "--model",
        default="tiny",
        help="checkpoint folder, in our layout or the published one; or a preset with random weights: tiny (default), "
        "tiny_llamavid, tiny_videollamb",
    )
    parser.add_argument(
        "--fps", type=RATE, default=1.0, help="frames sampled per second of video (default 1; to ask: the model's way)"
    )
    parser.add_argument(
        "--threshold",
        type=SIMILARITY,
        metavar="T",
        help="keep a frame whose mean DINOv2 similarity to its window is below T (default: the model's, 0.83)",
    )
    parser.add_argument("--store", metavar="URI", help="take what is known of the video from this feature store")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")


def build_parser() -> Parser:
    parser = Parser(prog="longvu", description="LongVU on Ray: long videos in, answers out.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer a question about a video")
    add_watching(ask)
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--max-new-tokens", type=COUNT, default=128, metavar="N", help="limit on the answer (default 128)")
    ask.add_argument("--subtitles", type=Path, metavar="SRT", help="LLaMA-VID: what is said, put between the frames")
    ask.set_defaults(fps=None)  # the model's own way

    frames = commands.add_parser("frames", help="contact sheet: every sampled frame, kept ones marked")
    add_watching(frames)
    frames.add_argument("-o", "--output", type=Path, metavar="PNG", help="default: VIDEO's name with .frames.png")

    convert = commands.add_parser("convert", help="checkpoint: published layout <-> ours")
    convert.add_argument("source", type=Path, metavar="SRC", help="checkpoint folder in either layout")
    convert.add_argument("destination", type=Path, metavar="DST", help="new folder, written in the other layout")
    for tower in ("siglip", "dinov2"):
        where = f"that tower of a published SRC (default: SRC/{tower}, else the hub's)"
        convert.add_argument(f"--{tower}", metavar="FOLDER", help=where)

    for job, (_, summary) in JOBS.items():
        commands.add_parser(job, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in JOBS:
        module, function = JOBS[words[0]][0].split(":")
        return int(getattr(import_module(module), function)(words[1:]))
    options = build_parser().parse_args(words)
    from pipelines.errors import run_cli

    return run_cli(lambda _: run_command(options), [])


def run_command(options: argparse.Namespace) -> int:
    """Import the command and run it; returns the exit code."""
    if "video" in options and options.store is None:
        from longvu_model.video import probe

        probe(options.video)  # a wrong file is known in an instant, before the seconds that torch takes to import
    return int(import_module(f"jobs.{options.command}").run(options))


if __name__ == "__main__":
    sys.exit(main())
