"""What the endpoint sends back, as OpenAI's clients read it; ``longvu`` holds what is ours."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class TokenLogprob(BaseModel):
    """A token with its natural-log probability, and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TokenLogprob] | None = None


class Logprobs(BaseModel):
    content: list[TokenLogprob] | None = None
    refusal: None = None


class PromptDetails(BaseModel):
    cached_tokens: int = Field(0, description="tokens whose keys and values were reused")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="visual and text tokens")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails(cached_tokens=0)


class SeenMedium(BaseModel):
    """What the model saw of a medium."""

    kind: Literal["video", "image"]
    kept_times_s: list[float] = Field(description="times of the kept frames, in seconds")
    num_sampled: int = Field(description="frames sampled before near-duplicates were left out")
    damage: str | None = Field(None, description="why only a good prefix was seen")
    source: Literal["decoded", "cache", "store"] = Field(description="where its features came from")


class CacheHits(BaseModel):
    visual: bool = Field(description="no medium was decoded or encoded for this request")
    prefix: bool = Field(description="keys and values of the video were reused")


class Vendor(BaseModel):
    """The ``longvu`` key of a reply."""

    media: list[SeenMedium]
    visual_tokens: int
    regime: str = Field(description="which token budget applied: full, mixed or low")
    cache: CacheHits
    seconds: dict[str, float] = Field(description="time per stage")
    model_digest: str


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    index: int = 0
    message: ReplyMessage
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    longvu: Vendor


class ReplyDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int = 0
    delta: ReplyDelta
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """One server-sent event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
    longvu: Vendor | None = None


class VideoCaption(BaseModel):
    """One server-sent event of ``/v1/captions``."""

    object: Literal["video.caption"] = "video.caption"
    model: str
    start_s: float = Field(description="of the scene, in seconds of the video")
    end_s: float
    text: str
    frames: int = Field(description="of the scene, those that were looked at")
    visual_tokens: int
    seconds: float = Field(description="that the caption took once the end of its scene was known")


class VideoObject(BaseModel):
    """An upload. Its id is the SHA-256 of its bytes; ``video:<id>`` names it in a chat."""

    id: str
    object: Literal["video"] = "video"
    filename: str
    bytes: int
    kind: Literal["video", "image"]
    duration_s: float | None
    created_at: int
    expires_at: int


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[VideoObject]
    has_more: Literal[False] = False


class Deleted(BaseModel):
    id: str
    object: Literal["video"] = "video"
    deleted: Literal[True] = True


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "longvu"
    max_model_len: int = Field(description="tokens of prompt and answer together")
    digest: str = Field(description="of weights, configuration and tokenizer")
    family: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelHealth(BaseModel):
    replicas: int


class Health(BaseModel):
    """Whether every model has a replica that answers."""

    status: Literal["ok", "starting"]
    models: dict[str, ModelHealth]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI: these statuses come in the error shape."""
    return {status: {"model": ErrorReply} for status in statuses}
