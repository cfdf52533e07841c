"""The closed set of ways in which a video can fail, each a class with a one-line message for the user.

Whatever decoding raises about its *input* is one of these; a wrong argument is a ``ValueError`` as everywhere else.
"""

from __future__ import annotations

from typing import ClassVar


class VideoError(Exception):
    """A video that cannot be used. ``code`` is the name of the class, ``message`` one line that names the source."""

    code: ClassVar[str] = "VideoError"
    log_tail: str = ""
    """The last lines that a supervised decoder logged; empty otherwise."""
    out_of_memory: bool = False
    """Whether the decoder ran into its memory limit, or was killed as if it had, and smaller blocks might pass."""

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        cls.code = cls.__name__


class NotAVideo(VideoError):
    """The source is not a video: text, an empty file, a folder, a file with sound only."""


class Unsupported(VideoError):
    """A video in a codec or container that the chosen backend cannot read."""


class Truncated(VideoError):
    """The file was cut short before its first frame; a file cut later gives its good prefix instead."""


class Corrupt(VideoError):
    """Damaged before its first frame, or the decoder died of it."""


class Timeout(VideoError):
    """Decoding did not finish within its deadline."""


class TooLarge(VideoError):
    """Frames, or what decoding needs, exceed a limit."""


class Missing(VideoError):
    """No such file."""


class Forbidden(VideoError):
    """The file exists but may not be read."""


VIDEO_ERRORS: dict[str, type[VideoError]] = {
    cls.__name__: cls for cls in (NotAVideo, Unsupported, Truncated, Corrupt, Timeout, TooLarge, Missing, Forbidden)
}
