"""``longvu corpus FOLDER``: synthetic videos with questions whose answers are known."""

from __future__ import annotations

import argparse

from jobs.terminal import Progress
from pipelines.corpus import CorpusConfig, write_corpus


def run(options: argparse.Namespace) -> int:
    finished = (options.folder / "manifest.json").is_file()
    config = CorpusConfig(num_videos=options.videos, seconds=options.seconds, seed=options.seed)
    corpus = write_corpus(options.folder, config, Progress("videos"))
    what = f"{len(corpus.videos)} videos of {options.seconds:g} s, {corpus.num_questions} questions"
    print(f"{options.folder}: {what}" + (" (already there)" if finished else ""))
    return 0
