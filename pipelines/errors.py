"""What a person sees when something is wrong: one line, no traceback, exit code 2.

A mistake of the user's is a :class:`UserError` here or in the stages, or a ``VideoError`` of the decoder. Anything
else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

USER_ERROR_EXIT = 2
INTERRUPTED_EXIT = 130


class UserError(ValueError):
    """A mistake that the user can mend; the message names the bad value, what is allowed and the fix."""


def run_cli(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run an entry point and turn user errors into one line on stderr.

    Args:
        main: takes the words after the command, returns the exit code.
        argv: those words; the process's own when absent.

    Returns:
        main's exit code; 2 after a user error; 130 after Ctrl-C.
    """
    from longvu_model.video.errors import VideoError

    try:
        return main(sys.argv[1:] if argv is None else argv)
    except (UserError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED_EXIT
