"""``longvu corpus FOLDER``: synthetic videos with questions whose answers are known.

With ``--config`` the folder gets three splits instead: stills and videos to learn from, and unseen videos.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import COUNT, RATE, SEED, Parser
from jobs.terminal import Progress
from pipelines.corpus import CorpusConfig, SplitsConfig, write_corpus, write_splits
from pipelines.errors import UserError, run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu corpus``."""
    return run_cli(run, argv)


def run(argv: Sequence[str]) -> int:
    """Parse, write, say what there is; returns the exit code."""
    options = build_parser().parse_intermixed_args(argv)
    given = {name: getattr(options, name) for name in ("videos", "seconds", "seed")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.config is None:
        if options.overrides:
            raise UserError(f"{options.overrides[0]}: key=value settings go with --config; or use --videos, --seed ...")
        return _write_videos(options.folder, **given)
    overrides = [f"{name}={value}" for name, value in given.items()] + options.overrides
    return _write_splits(options.folder, options.config, overrides)


def build_parser() -> Parser:
    parser = Parser(prog="longvu corpus", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--videos", type=COUNT, metavar="N", help="how many to write, or to learn from (default 8)")
    parser.add_argument("--seconds", type=RATE, metavar="S", help="length of each (default 120)")
    parser.add_argument("--seed", type=SEED, help="another seed gives other videos (default 0)")
    parser.add_argument("--config", type=Path, metavar="YAML", help="write splits, such as corpus_demo.yaml's")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    return parser


def _write_videos(folder: Path, videos: int = 8, seconds: float = 120.0, seed: int = 0) -> int:
    finished = (folder / "manifest.json").is_file()
    corpus = write_corpus(folder, CorpusConfig(num_videos=videos, seconds=seconds, seed=seed), Progress("videos"))
    what = f"{len(corpus.videos)} videos of {seconds:g} s, {corpus.num_questions} questions"
    print(f"{folder}: {what}" + (" (already there)" if finished else ""))
    return 0


def _write_splits(folder: Path, path: Path, overrides: list[str]) -> int:
    from pipelines.config import load_config

    finished = (folder / "splits.json").is_file()
    config = load_config(SplitsConfig, path, overrides)
    write_splits(folder, config, Progress("pictures and videos"))
    what = f"{config.stills} stills, {config.videos} videos of {config.seconds:g} s, {config.heldout} unseen ones"
    print(f"{folder}: {what}" + (" (already there)" if finished else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
