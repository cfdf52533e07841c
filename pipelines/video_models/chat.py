"""Chat messages beside watched media: which parts are media, and whether the media fit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipelines.video_models.base import Messages, WatchedMedia

Medium = TypeVar("Medium", bound=WatchedMedia)


def parts(messages: Messages) -> Iterator[Mapping[str, Any]]:
    """Content parts of all messages in order; a plain text has none."""
    for message in messages:
        if not isinstance(message.get("content"), str):
            yield from message["content"]


def without_sources(messages: Messages) -> list[dict[str, Any]]:
    """Messages whose media are places only."""

    def plain(message: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(message.get("content"), str):
            return dict(message)
        return {
            **message,
            "content": [one if one["type"] == "text" else {"type": one["type"]} for one in parts([message])],
        }

    return [plain(message) for message in messages]


def matched(messages: Messages, media: Sequence[WatchedMedia], kind: type[Medium]) -> list[Medium]:
    """The media, each of which belongs to a part of its kind.

    Raises:
        ValueError: parts and media differ in number or kind, or another model watched them.
    """
    places = [part["type"] for part in parts(messages) if part["type"] != "text"]
    given = [medium.kind for medium in media]
    if places != given:
        raise ValueError(f"the messages have places for {places or 'no media'}, given are {given or 'none'}")
    ours = [medium for medium in media if isinstance(medium, kind)]
    if len(ours) < len(media):
        raise ValueError(f"media of {[type(medium).__name__ for medium in media]}: give what this model watched")
    return ours
