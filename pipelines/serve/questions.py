"""What travels between the HTTP side and a model replica: one question there, its events back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.metrics_core import Metric

from pipelines.serve.caption_protocol import CaptionRequest
from pipelines.serve.protocol import ChatRequest, ImagePart, VideoPart, url_of
from pipelines.serve.refusals import Refusal
from pipelines.serve.replies import TokenLogprob, Usage, Vendor, VideoCaption

# Characters per token, low, so that the estimate of a text's tokens is rather too high.
_CHARACTERS_PER_TOKEN = 2


@dataclass(frozen=True)
class Question:
    """A request on its way to a replica.

    Args:
        request: as it was checked.
        tenant: whose it is; a ``uuid`` means something to one tenant only.
        tokens: that it was admitted for.
    """

    request: ChatRequest
    tenant: str
    tokens: int


@dataclass(frozen=True)
class CaptionOrder:
    """A request for captions on its way to a replica, and the tokens that it was admitted for."""

    request: CaptionRequest
    tokens: int


@dataclass(frozen=True)
class Started:
    """The prompt is in the engine, or the video about to be captioned: from here on there is an answer, no refusal."""


@dataclass(frozen=True)
class Delta:
    """The next words."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """The end of an answer."""

    finish_reason: Literal["stop", "length"]
    usage: Usage
    vendor: Vendor


Event = Started | Delta | Finished | VideoCaption | Refusal


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, the same in all its replicas; ``captions``: whether it can caption streams."""

    digest: str
    family: str
    max_length: int
    created: int
    captions: bool = False


@dataclass(frozen=True)
class ReplicaStatus:
    """What a replica says of itself, about once a second."""

    info: ModelInfo
    capacity_tokens: int
    ongoing_requests: int
    metrics: list[Metric]


def affinity_key(question: Question | CaptionOrder) -> str | None:
    """Equal for requests about the same video, so that they reach the replica that has it; None without media.

    An upload or stored video counts by its digest, everything else by uuid or URL.
    """
    if isinstance(question, CaptionOrder):
        return _name_key(f"\0{question.request.url}")
    parts = question.request.parts()
    return medium_key(parts[0], question.tenant) if parts else None


def medium_key(part: VideoPart | ImagePart, tenant: str) -> str:
    """Names a medium as far as the request alone tells."""
    return _name_key(f"{tenant}\0{part.uuid}" if part.uuid else f"\0{url_of(part)}")


def _name_key(named: str) -> str:
    return hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def cost_keys(request: ChatRequest, tenant: str) -> list[tuple[str, str]]:
    """What decides the visual tokens of each medium: which one, and how it is sampled."""
    sampling = str(request.sampling())
    return [(medium_key(part, tenant), sampling) for part in request.parts()]


def text_tokens(request: ChatRequest) -> int:
    """About how many tokens the text will take."""
    characters = 0
    for message in request.messages:
        content = message.content
        texts = [content] if isinstance(content, str) else [getattr(part, "text", "") for part in content]
        characters += sum(len(text) for text in texts)
    return characters // _CHARACTERS_PER_TOKEN + 1
