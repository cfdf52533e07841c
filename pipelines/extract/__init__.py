"""Extraction: videos in, feature store out. Read ``extraction.py`` first, then ``dataflow.py``."""

from pipelines.extract.config import ExtractConfig
from pipelines.extract.extraction import extract
from pipelines.extract.report import ExtractReport
from pipelines.extract.work import store_uri

__all__ = ["ExtractConfig", "ExtractReport", "extract", "store_uri"]
