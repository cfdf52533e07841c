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


def note_damage(video: object, damage: str | None) -> None:
    """Say that only a part of a file was seen, and why."""
    if damage is not None:
        note(f"note: {video} is damaged ({damage}); only its good frames were used")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    """So many of so many done: a line that rewrites itself on a terminal, one every ten seconds elsewhere."""

    def __init__(self, unit: str):
        self._unit = unit
        self._shown_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        terminal = sys.stderr.isatty()
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.1 if terminal else 10.0) and not (terminal and done == total):
            return
        self._shown_s = now_s
        rewritten = terminal and done < total
        text = f"{done} of {total} {self._unit}"
        print(f"\r{text}" if terminal else text, end="" if rewritten else "\n", file=sys.stderr, flush=True)
