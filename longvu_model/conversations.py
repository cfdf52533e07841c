"""Which medium belongs to which slot: messages with content parts, and prompts with markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longvu_model.media import flatten
from longvu_model.prompts import IMAGE_MARKER, VIDEO_MARKER, escape_markers
from longvu_model.video_processing import flatten_videos

_SOURCE_KEYS = {"image": ("image", "path", "url", "base64"), "video": ("video", "path", "url")}
# Names of the same parts in OpenAI's protocol, whose source is {"url": ...}.
_ALIASES = {"image_url": "image", "video_url": "video"}


@dataclass(frozen=True)
class Source:
    """Where one medium comes from; ``value`` is ``None`` for a slot without a source."""

    value: Any
    is_video: bool


def read_conversation(
    messages: Sequence[Mapping[str, Any]], *, escape: bool
) -> tuple[list[dict[str, Any]], list[Source]]:
    """Messages as a chat template wants them, without sources, and the sources in the order of their parts.

    Args:
        messages: each with ``role`` and ``content``, a text or a list of parts.
        escape: hide ``<image>`` in texts, where it is not a slot.

    Raises:
        ValueError: a message or part that cannot be read; it is named by its number.
    """
    if not messages:
        raise ValueError("a conversation without messages")
    plain: list[dict[str, Any]] = []
    sources: list[Source] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f"message {i} is {message!r:.80}: it needs 'role' and 'content'")
        content = message["content"]
        if isinstance(content, str):
            plain.append({**message, "content": escape_markers(content) if escape else content})
            continue
        if not isinstance(content, list | tuple) or not content:
            raise ValueError(f"content of message {i} is {content!r:.80}: give a text or a list of parts")
        parts: list[dict[str, str]] = []
        for j, part in enumerate(content):
            kind = _kind(part, f"part {j} of message {i}")
            if kind == "text":
                parts.append({"type": "text", "text": escape_markers(part["text"]) if escape else part["text"]})
            else:
                parts.append({"type": kind})
                sources.append(Source(_value(part, kind), kind == "video"))
        plain.append({**message, "content": parts})
    return plain, sources


def _kind(part: Any, place: str) -> str:
    kind = str(part.get("type")) if isinstance(part, Mapping) else ""
    kind = _ALIASES.get(kind, kind)
    if kind == "text" and isinstance(part.get("text"), str):
        return kind
    if kind in _SOURCE_KEYS:
        return kind
    raise ValueError(
        f"{place} is {part!r:.80}: give {{'type': 'text', 'text': ...}}, {{'type': 'image', 'path': ...}} or "
        "{'type': 'video', 'path': ...}"
    )


def _value(part: Mapping[str, Any], kind: str) -> Any:
    openai = part.get(f"{kind}_url")
    if openai is not None:
        return openai["url"] if isinstance(openai, Mapping) else openai
    for key in _SOURCE_KEYS[kind]:
        if part.get(key) is not None:
            return f"data:;base64,{part[key]}" if key == "base64" else part[key]
    return None


def slot_sources(
    prompts: Sequence[str] | None, images: Any, videos: Any, video_marker: str = IMAGE_MARKER
) -> tuple[list[str], list[Source]]:
    """Prompts with every slot of a picture written ``<image>`` and of a video as ``video_marker``, and their sources.

    With pictures or videos alone, ``<image>`` is the slot of either (and ``<video>`` of a video); with both,
    ``<image>`` takes the next picture and ``<video>`` the next video. Without prompts: pictures, then videos.

    Raises:
        ValueError: slots and media differ in number.
    """
    pictures = [Source(value, False) for value in ([] if images is None else flatten(images))]
    clips = [Source(value, True) for value in ([] if videos is None else flatten_videos(videos))]
    if prompts is None:
        return [], pictures + clips
    if pictures and clips:
        _compare(prompts, IMAGE_MARKER, len(pictures), "pictures")
        _compare(prompts, VIDEO_MARKER, len(clips), "videos")
        queues = {IMAGE_MARKER: iter(pictures), VIDEO_MARKER: iter(clips)}
        order = [queues[marker] for prompt in prompts for marker in _markers(prompt)]
        sources = [next(queue) for queue in order]
    else:
        sources = pictures or clips
    rewritten = [prompt.replace(VIDEO_MARKER, IMAGE_MARKER) if clips else prompt for prompt in prompts]
    if sources:
        _compare(rewritten, IMAGE_MARKER, len(sources), "media")
    if video_marker != IMAGE_MARKER:
        markers = iter(video_marker if source.is_video else IMAGE_MARKER for source in sources)
        rewritten = [_with_markers(prompt, markers) for prompt in rewritten] if sources else list(prompts)
    return rewritten, sources


def _with_markers(prompt: str, markers: Iterator[str]) -> str:
    """A prompt whose ``<image>`` are replaced by the next markers."""
    first, *rest = prompt.split(IMAGE_MARKER)
    return first + "".join(next(markers) + piece for piece in rest)


def _compare(prompts: Sequence[str], marker: str, count: int, name: str) -> None:
    slots = sum(prompt.count(marker) for prompt in prompts)
    if slots != count:
        raise ValueError(
            f"{slots} {marker} in the text, {count} {name} given: write {marker} where each belongs, "
            "or use apply_chat_template"
        )


def _markers(prompt: str) -> list[str]:
    """The markers of a prompt in order."""
    pieces = [piece.split(VIDEO_MARKER) for piece in prompt.split(IMAGE_MARKER)]
    markers: list[str] = []
    for i, piece in enumerate(pieces):
        markers += [IMAGE_MARKER] * (i > 0) + [VIDEO_MARKER] * (len(piece) - 1)
    return markers
