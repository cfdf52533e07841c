"""What commands print beside their result: progress and notes on stderr, and libraries kept from talking in between."""

from __future__ import annotations

import os
import sys
import time
import warnings


def quiet_libraries() -> None:
    """No progress bars and no advice from transformers, no report on accelerators from deepspeed."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # transformers imports deepspeed on saving, which otherwise warns that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


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
