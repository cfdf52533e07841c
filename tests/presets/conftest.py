"""A corpus that is small and has many scenes."""

from __future__ import annotations

import pytest

from pipelines.corpus import CorpusConfig, CorpusManifest, write_corpus


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusManifest:
    config = CorpusConfig(num_videos=4, seconds=60, fps=2, scenes=(3, 4, 5), needle_seconds=(2, 3))
    return write_corpus(tmp_path_factory.mktemp("corpus"), config)
