"""Events of a replica -> OpenAI's two forms of an answer, one object or server-sent events; and captions as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from pydantic import BaseModel

from pipelines.serve.questions import Delta, Finished
from pipelines.serve.refusals import Refusal
from pipelines.serve.replies import (
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Logprobs,
    ReplyDelta,
    ReplyMessage,
    TokenLogprob,
    VideoCaption,
)

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Heading:
    """What all pieces of one answer carry."""

    id: str
    created: int
    model: str
    system_fingerprint: str


@dataclass
class Answer:
    """An answer as far as it has come."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            self.finished = event
        else:
            self.text.append(event.text)
            self.logprobs.extend(event.logprobs)

    def completion(self, heading: Heading, with_logprobs: bool) -> ChatCompletion:
        """The whole answer; it has finished."""
        assert self.finished is not None
        return ChatCompletion(
            **vars(heading),
            choices=[
                Choice(
                    message=ReplyMessage(content="".join(self.text)),
                    logprobs=Logprobs(content=self.logprobs) if with_logprobs else None,
                    finish_reason=self.finished.finish_reason,
                )
            ],
            usage=self.finished.usage,
            longvu=self.finished.vendor,
        )


async def server_sent(
    events: AsyncIterator[Delta | Finished | Refusal], heading: Heading, *, with_logprobs: bool, with_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as chunks: the role, the words, the end, then the usage if asked for; ``longvu`` is in the last one.

    An answer that breaks off ends with an error event and without ``[DONE]``, which OpenAI's client raises.
    """
    yield _chunk(heading, [ChunkChoice(delta=ReplyDelta(role="assistant", content=""))])
    async for event in events:
        if isinstance(event, Refusal):
            yield _event(json.dumps(event.body()))
            return
        if isinstance(event, Delta):
            logprobs = Logprobs(content=event.logprobs) if with_logprobs else None
            yield _chunk(heading, [ChunkChoice(delta=ReplyDelta(content=event.text), logprobs=logprobs)])
            continue
        end = [ChunkChoice(delta=ReplyDelta(), finish_reason=event.finish_reason)]
        yield _chunk(heading, end, longvu=None if with_usage else event.vendor)
        if with_usage:
            yield _chunk(heading, [], usage=event.usage, longvu=event.vendor)
    yield DONE


async def server_sent_captions(captions: AsyncIterator[VideoCaption | Refusal]) -> AsyncIterator[bytes]:
    """Captions as they come, ended as answers are."""
    async for caption in captions:
        if isinstance(caption, Refusal):
            yield _event(json.dumps(caption.body()))
            return
        yield _event(caption.model_dump_json())
    yield DONE


def _chunk(heading: Heading, choices: list[ChunkChoice], **more: BaseModel | None) -> bytes:
    return _event(ChatChunk(**vars(heading), choices=choices, **more).model_dump_json(exclude_none=True))  # type: ignore[arg-type]


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
