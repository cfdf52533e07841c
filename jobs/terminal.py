"""What commands print beside their result: progress and notes on stderr, and libraries kept from talking in between."""

from __future__ import annotations

import logging
import sys
import time
import warnings


def quiet_libraries() -> None:
    """No progress bars and no advice from transformers, no report of missing accelerators from deepspeed."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # A filter, because deepspeed sets its logger's level when it is imported, which transformers does on saving.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno > logging.WARNING)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class FrameProgress:
    """Frames done, on one line that rewrites itself; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown_s = 0.0

    def __call__(self, done: int, planned: int) -> None:
        now_s = time.monotonic()
        if sys.stderr.isatty() and (now_s - self._shown_s > 0.1 or done == planned):
            self._shown_s = now_s
            print(f"\r{done} of {planned} frames", end="\n" if done == planned else "", file=sys.stderr, flush=True)
