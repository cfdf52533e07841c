"""One page about a run folder: what was seen, learned, scored and answered, from the artifacts that the stages left."""

from pipelines.report.page import write_report

__all__ = ["write_report"]
