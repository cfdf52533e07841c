"""What a person sees when something is wrong: one line, no traceback, exit code 2.

A mistake of the user's is a :class:`UserError` here or in the stages, or a ``VideoError`` of the decoder. Anything
else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

_COLLECT_EVERY = 50_000
"""Objects between two looks for garbage. Most of a command's start is imports, whose objects stay; with the default of
700 a sixth of that time goes into looking at them again and again."""

USER_ERROR_EXIT = 2
STOPPED_EXIT = 4
INTERRUPTED_EXIT = 130
TERMINATED_EXIT = 143


class UserError(ValueError):
    """A mistake that the user can mend; the message names the bad value, what is allowed and the fix."""

    exit_code: ClassVar[int] = USER_ERROR_EXIT


class JobStopped(UserError):
    """A job that cannot go on for reasons outside itself (disk full, bucket gone); run again, it continues."""

    exit_code = STOPPED_EXIT


class Terminated(BaseException):
    """SIGTERM: somebody, or the cluster, wants this process to end. Not an ``Exception``, as KeyboardInterrupt."""


def run_cli(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run an entry point and turn user errors into one line on stderr.

    Args:
        main: takes the words after the command, returns the exit code.
        argv: those words; the process's own when absent.

    Returns:
        main's exit code; 2 after a user error; 4 when the job had to stop; 130 after Ctrl-C; 143 after SIGTERM.
    """
    gc.set_threshold(_COLLECT_EVERY)
    from longvu_model.video.errors import VideoError

    try:
        with _sigterm_raises():
            return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except VideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED_EXIT
    except Terminated:
        print("terminated; the same command continues where it stopped", file=sys.stderr)
        return TERMINATED_EXIT


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that its MLflow run and its child processes end with it."""

    def terminate(_: int, __: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # only the main thread may; tests call commands from others
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
