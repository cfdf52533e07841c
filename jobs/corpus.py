"""``longvu corpus FOLDER``: synthetic videos with questions whose answers are known."""

from __future__ import annotations

import argparse

from pipelines.corpus import CorpusConfig, write_corpus
from pipelines.errors import UserError


def run(options: argparse.Namespace) -> int:
    finished = (options.folder / "manifest.json").is_file()
    try:
        config = CorpusConfig(num_videos=options.videos, seconds=options.seconds, seed=options.seed)
        corpus = write_corpus(options.folder, config)
    except (ValueError, FileExistsError) as error:
        raise UserError(str(error)) from None
    what = f"{len(corpus.videos)} videos of {options.seconds:g} s, {corpus.num_questions} questions"
    print(f"{options.folder}: {what}" + (" (already there)" if finished else ""))
    return 0
