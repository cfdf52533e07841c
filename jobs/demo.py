"""The first run, start to end: ``make demo``, or ``make demo VIDEO=path`` on a video of your own.

It types four `longvu` commands that you could type yourself, and shows each. What is finished is not done again, so an
interrupted run goes on, and the second one takes seconds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import cli, extract
from pipelines import storage
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.extract.config import ExtractConfig
from pipelines.extract.extraction import store_uri

NUM_VIDEOS = 6
OWN_QUESTION = "What happens in this video?"


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="longvu demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--video", metavar="PATH", help="use this video instead of synthetic ones")
    parser.add_argument("--folder", default="runs/demo", help="where everything goes (default runs/demo)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run the commands; returns the exit code of the first that fails."""
    options = build_parser().parse_args(argv)
    started_s = time.monotonic()
    folder, corpus = Path(options.folder), Path(options.folder) / "corpus"
    if options.video is None:
        print(f"Writing {NUM_VIDEOS} videos of two minutes: slow scenes in which a coloured shape appears for seconds.")
        code = typed("corpus", str(corpus), "--videos", str(NUM_VIDEOS))
        if code:
            return code
        row = json.loads((corpus / "questions.jsonl").read_text().partition("\n")[0])
        video, question, truth = str(corpus / row["video"]), row["question"], row["answer"]
        source = str(corpus / "videos")
    else:
        from longvu_model.video import probe

        probe(options.video)
        source = video = options.video
        question, truth = OWN_QUESTION, None

    settings = [f"source={source}", f"store={folder}", f"workdir={folder}"]
    store = storage.shown(store_uri(load_config(ExtractConfig, extract.DEFAULT_CONFIG, settings)))
    model, sheet = str(folder / "models" / "tiny"), folder / f"{Path(video).stem}.frames.png"
    print("\nLooking at every second of them: DINOv2 says which frames are new, towers say what they show.")
    code = typed("extract", *settings)
    if code:
        return code
    print("\nDrawing what was kept of one video.")
    code = typed("frames", video, "--model", model, "--store", store, "-o", str(sheet))
    if code:
        return code
    print("\nAsking a question; the answer comes from the stored features, the video is not opened.")
    code = typed("ask", video, question, "--model", model, "--store", store, "--max-new-tokens", "16")
    if code:
        return code
    if truth is not None:
        print(f"(The true answer is {truth!r}. The tiny model's language part is random until it is trained.)")
    print(f"\nDone in {time.monotonic() - started_s:.0f} s.\n{places(folder, store, sheet)}")
    return 0


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
