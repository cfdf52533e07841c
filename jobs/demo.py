"""The whole story in one command: ``make demo``, or ``make demo VIDEO=path`` to look at a video of your own.

The story goes from drawn videos over features, both stages of training and an evaluation to a served model that
answers over HTTP, and ends with a report of one page. Every stage is shown as the command that you could type
yourself. What is finished is not done again, so an interrupted run goes on, and the second one takes seconds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs import cli, extract
from jobs.story import SIZES, tell
from jobs.terminal import quiet_libraries
from pipelines import storage
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.extract.config import ExtractConfig
from pipelines.extract.work import store_uri


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="longvu demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--video", metavar="PATH", help="look at this video instead of telling the story")
    parser.add_argument("--folder", type=Path, help="where everything goes (default runs/demo)")
    parser.add_argument("--seed", type=cli.SEED, default=0, help="of data and training (default 0)")
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="full",
        help="smoke: so little of everything that nothing is learned, to see that every stage runs",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Tell the story, or look at a video; returns the exit code."""
    options = build_parser().parse_args(argv)
    started_s = time.monotonic()
    folder = options.folder or Path("runs/demo")
    if options.video is not None:
        code = look_at(options.video, folder)
    else:
        print(f"Everything goes to {folder}. Killed or interrupted, the same command goes on where it was.")
        tell(folder, options.seed, options.size)
        print(f"\n{places(folder)}")
        code = 0
    if code == 0:
        print(f"Done in {time.monotonic() - started_s:.0f} s.")
    return code


def look_at(video: str, folder: Path) -> int:
    """Extract a video, draw what was kept of it, ask about it; returns the exit code of the first that fails."""
    from longvu_model.video import probe

    probe(video)
    quiet_libraries()
    settings = [f"source={video}", f"store={folder}", f"workdir={folder}"]
    uri = store_uri(load_config(ExtractConfig, extract.DEFAULT_CONFIG, settings))
    store, sheet = os.path.relpath(storage.local_path(uri)), folder / f"{Path(video).stem}.frames.png"
    from_store = ["--model", str(folder / "models" / "tiny"), "--store", store]
    for text, words in (
        ("Looking at every second: which frames show something new, and what (~20 s).", ["extract", *settings]),
        ("Drawing what was kept of it.", ["frames", video, *from_store, "-o", str(sheet)]),
        (
            "Asking a question. The answer comes from the stored features; the video is not decoded.\n"
            "The tiny model's weights are random: this shows the path, not yet the words.",
            ["ask", video, "What happens in this video?", *from_store, "--max-new-tokens", "16"],
        ),
    ):
        say(text)
        code = typed(*words)
        if code:
            return code
    print(f"\n  look at     {sheet}\n  features    {store}")
    return 0


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def typed(*words: str) -> int:
    """Show a `longvu` command and run it; returns its exit code."""
    print(f"$ longvu {shlex.join(words)}", flush=True)
    return cli.main(words)


def places(folder: Path) -> str:
    """Where things are, and what to do next."""
    activate = "" if shutil.which("longvu") else "\n  source .venv/bin/activate"
    return f"""\
  report      {folder / "report.html"}
Next:{activate}
  mlflow ui --backend-store-uri sqlite:///{folder / "mlflow.db"}
  make demo VIDEO=/path/to/your/video.mp4"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu demo``."""
    return run_cli(run, argv)


if __name__ == "__main__":
    sys.exit(main())
