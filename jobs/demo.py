"""The first run, start to end: ``make demo``, or ``make demo VIDEO=path`` on a video of your own.

It types the `longvu` commands that you could type yourself, and shows each. What is finished is not done again, so an
interrupted run goes on, and the second one takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import cli, extract
from jobs.terminal import quiet_libraries
from pipelines import storage
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.extract.config import ExtractConfig
from pipelines.extract.work import store_uri


@dataclass(frozen=True)
class Subject:
    """What the demo looks at: sources to extract, one video among them, a question, and what is known of the answer."""

    source: str
    video: str
    question: str
    truth: str


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="longvu demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--video", metavar="PATH", help="use this video instead of synthetic ones")
    parser.add_argument("--videos", type=cli.COUNT, default=6, metavar="N", help="synthetic videos (default 6)")
    parser.add_argument("--folder", default="runs/demo", help="where everything goes (default runs/demo)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run the commands; returns the exit code of the first that fails."""
    options = build_parser().parse_args(argv)
    started_s = time.monotonic()
    folder = Path(options.folder)
    if options.video is not None:
        from longvu_model.video import probe

        probe(options.video)
        subject = Subject(options.video, options.video, "What happens in this video?", "")
    else:
        corpus = folder / "corpus"
        say(f"Writing {options.videos} videos of two minutes: slow scenes, and for seconds a coloured shape (~20 s).")
        code = typed("corpus", str(corpus), "--videos", str(options.videos))
        if code:
            return code
        subject = first_of(corpus)

    quiet_libraries()
    settings = [f"source={subject.source}", f"store={folder}", f"workdir={folder}"]
    uri = store_uri(load_config(ExtractConfig, extract.DEFAULT_CONFIG, settings))
    store, sheet = os.path.relpath(storage.local_path(uri)), folder / f"{Path(subject.video).stem}.frames.png"
    from_store = ["--model", str(folder / "models" / "tiny"), "--store", store]
    for text, words in (
        ("Looking at every second: which frames show something new, and what (~20 s).", ["extract", *settings]),
        ("Drawing what was kept of one video.", ["frames", subject.video, *from_store, "-o", str(sheet)]),
        (
            "Asking a question. The answer comes from the stored features; the video is not decoded.\n"
            "The tiny model's weights are random: this shows the path, not yet the words.",
            ["ask", subject.video, subject.question, *from_store, "--max-new-tokens", "16"],
        ),
    ):
        say(text)
        code = typed(*words)
        if code:
            return code
    print(f"{subject.truth}\nDone in {time.monotonic() - started_s:.0f} s.\n{places(folder, store, sheet)}")
    return 0


def first_of(corpus: Path) -> Subject:
    """The first video of a corpus, with its first question."""
    row = json.loads((corpus / "questions.jsonl").read_text().partition("\n")[0])
    needle = row["needle"]
    truth = (
        f"(True answer: {row['answer']}. A {needle['colour']} {needle['shape']} is there from second "
        f"{needle['start_s']:.1f} to {needle['end_s']:.1f}: look for it in the picture.)\n"
    )
    return Subject(str(corpus / "videos"), str(corpus / row["video"]), row["question"], truth)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def typed(*words: str) -> int:
    """Show a `longvu` command and run it; returns its exit code."""
    print(f"$ longvu {shlex.join(words)}", flush=True)
    return cli.main(words)


def places(folder: Path, store: str, sheet: Path) -> str:
    """Where things are, and what to do next."""
    activate = "" if shutil.which("longvu") else "\n  source .venv/bin/activate"
    return f"""\
  look at     {sheet}
  features    {store}
  mlflow      {folder / "mlflow.db"}
Next:{activate}
  make demo VIDEO=/path/to/your/video.mp4
  longvu frames VIDEO --fps 2
  longvu extract source=FOLDER store=runs
  mlflow ui --backend-store-uri sqlite:///{folder / "mlflow.db"}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu demo``."""
    return run_cli(run, argv)


if __name__ == "__main__":
    sys.exit(main())
