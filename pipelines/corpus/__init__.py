"""Synthetic corpus: long, slowly changing scenes in which a coloured shape, the needle, appears for a few seconds.

Every video comes with multiple-choice questions whose answers are known exactly, so that extraction, training and
evaluation can be tried, and measured, without any download.
"""

from pipelines.corpus.config import KINDS, CorpusConfig, CorpusError
from pipelines.corpus.plan import Needle, Question, VideoPlan, plan_corpus
from pipelines.corpus.splits import Splits, SplitsConfig, write_splits
from pipelines.corpus.writer import CorpusManifest, prompt, write_corpus

__all__ = [
    "KINDS",
    "CorpusConfig",
    "CorpusError",
    "CorpusManifest",
    "Needle",
    "Question",
    "Splits",
    "SplitsConfig",
    "VideoPlan",
    "plan_corpus",
    "prompt",
    "write_corpus",
    "write_splits",
]
