"""One small corpus for all tests here."""

from __future__ import annotations

import pytest

from pipelines.corpus import CorpusConfig, CorpusManifest, write_corpus

SMALL = CorpusConfig(num_videos=2, seconds=36, fps=5, scenes=(2, 3), needle_seconds=(2, 3), gop=50)


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusManifest:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SMALL)
