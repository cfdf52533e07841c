"""Extraction: videos in, feature store out. Read ``extraction.py`` first, then ``dataflow.py``."""

from pipelines.extract.config import ExtractConfig
from pipelines.extract.extraction import extract, store_uri
from pipelines.extract.report import ExtractReport

__all__ = ["ExtractConfig", "ExtractReport", "extract", "store_uri"]
