"""What a chat request may hold: OpenAI's fields, vLLM's two for media, and nothing that would be ignored in silence.

A field that changes nothing here (``user``, ``metadata``, ``store``, ``safety_identifier``, ``prompt_cache_key``,
``service_tier``, ``parallel_tool_calls``) is taken and has no effect. A field of OpenAI's or vLLM's that would change
the answer and is not implemented is refused by name, see :data:`UNSUPPORTED`; fields with one allowed value likewise.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from longvu_model.video import FrameSampling

NO_TOOLS = "this endpoint answers in text and calls no tools; leave it out"
ONE_CHOICE = "one answer is given per request; leave it out and send the request several times"
NO_PENALTIES = "penalties are not applied; leave it out or set 0"
UNSUPPORTED = {
    "tools": NO_TOOLS,
    "tool_choice": NO_TOOLS,
    "functions": NO_TOOLS,
    "function_call": NO_TOOLS,
    "tool_calls": NO_TOOLS,
    "tool_call_id": NO_TOOLS,
    "n": ONE_CHOICE,
    "best_of": ONE_CHOICE,
    "use_beam_search": ONE_CHOICE,
    "presence_penalty": NO_PENALTIES,
    "frequency_penalty": NO_PENALTIES,
    "repetition_penalty": "penalties are not applied; leave it out or set 1",
    "response_format": "answers are free text; leave it out and ask for the format in words",
    "logit_bias": "token biases are not applied; leave it out",
    "audio": "answers are text; leave it out",
    "modalities": 'answers are text; leave it out or give ["text"]',
    "prediction": "predicted outputs are not used; leave it out",
    "reasoning_effort": "these models do not reason apart from answering; leave it out",
    "web_search_options": "nothing is searched; leave it out",
    "verbosity": "length is set by max_tokens; leave it out",
    "top_k": "sampling is by temperature and top_p; leave it out",
    "min_p": "sampling is by temperature and top_p; leave it out",
    "guided_json": "answers are free text; leave it out",
    "structured_outputs": "answers are free text; leave it out",
    "chat_template": "the checkpoint's own template is used; leave it out",
    "detail": 'the model chooses the resolution; leave it out or give "auto"',
    "include_obfuscation": "stream chunks are not padded; leave it out or set false",
}
MOST_STOPS = 4
MOST_TOP_LOGPROBS = 20
MOST_MESSAGES = 1024
_INT64 = 2**63


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("is not valid Unicode: it holds half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Finite = Annotated[float, AfterValidator(_finite)]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
Second = Annotated[Finite, Field(ge=0, le=1e7)]


class Strict(BaseModel):
    """Nothing that is not named."""

    model_config = ConfigDict(extra="forbid", strict=False)


class TextPart(Strict):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class MediaUrl(Strict):
    """``http(s)://``, ``data:``, ``file://`` under an allowed root, or ``video:<id>`` of an upload or stored video."""

    url: Text = Field(min_length=1)


class ImageUrl(MediaUrl):
    """As for videos; ``detail`` is the model's choice."""

    detail: Literal["auto"] | None = None


Uuid = Annotated[Text, Field(min_length=1, max_length=256)]


class VideoPart(Strict):
    """A video. ``uuid`` names its content: nothing is fetched under one that is known, and the URL may lack."""

    type: Literal["video_url"]
    video_url: MediaUrl | None = None
    uuid: Uuid | None = None


class ImagePart(Strict):
    """A picture; ``uuid`` as for videos."""

    type: Literal["image_url"]
    image_url: ImageUrl | None = None
    uuid: Uuid | None = None


Part = Annotated[TextPart | VideoPart | ImagePart, Field(discriminator="type")]


class InstructionMessage(Strict):
    """System prompt; the checkpoint's own without one."""

    role: Literal["system", "developer"]
    content: Text | list[TextPart]


class UserMessage(Strict):
    """A question, with its media where they belong in the text."""

    role: Literal["user"]
    content: Text | Annotated[list[Part], Field(min_length=1)]


class AssistantMessage(Strict):
    """An earlier answer, as the client library gives it back."""

    role: Literal["assistant"]
    content: Text | list[TextPart]
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


Message = Annotated[InstructionMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


Count = Annotated[int, Field(ge=1, le=1_000_000)]


class VideoSampling(Strict):
    """Which frames are sampled. ``num_frames`` alone: so many, evenly; with ``fps``: at most so many. -1: no cap.

    ``max_frames`` is that cap under a name of its own.
    """

    num_frames: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    max_frames: Count | None = None
    fps: Annotated[Finite, Field(gt=0, le=1000)] | None = None
    start_s: Second | None = None
    end_s: Second | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.num_frames == 0:
            raise ValueError("num_frames=0 samples nothing; give 1 or more, or -1 for no cap")
        if self.max_frames is not None and self.num_frames is not None:
            raise ValueError("num_frames and max_frames both limit the frames; give one of the two")
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise ValueError(f"end_s={self.end_s} must be after start_s={self.start_s or 0}")
        return self


class MediaIo(Strict):
    """vLLM's options for reading media."""

    video: VideoSampling | None = None


class ProcessorOptions(Strict):
    """Of the processor's options, those that mean something for these models; equal to ``media_io_kwargs.video``."""

    fps: Annotated[Finite, Field(gt=0, le=1000)] | None = None
    num_frames: Count | None = None
    do_sample_frames: Literal[True] | None = None


class StreamOptions(Strict):
    """``include_usage``: one more chunk at the end, with the token counts."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    """Free text, the only format."""

    type: Literal["text"]


class ChatRequest(Strict):
    """``POST /v1/chat/completions``. Without ``temperature`` the answer is greedy."""

    model: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    media_io_kwargs: MediaIo | None = None
    mm_processor_kwargs: ProcessorOptions | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    repetition_penalty: One | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None

    user: Text | None = None
    metadata: dict[Text, Text] | None = None
    store: bool | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Literal["auto", "default"] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.continue_final_message) != (self.add_generation_prompt is False):
            raise ValueError("continue_final_message=true and add_generation_prompt=false go together; give both")
        wanted = "assistant" if self.continue_final_message else "user"
        if self.messages[-1].role != wanted:
            raise ValueError(
                f"messages end with {self.messages[-1].role!r}; the last one must be the user's, or the assistant's "
                f"with continue_final_message=true"
            )
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of the two")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        if not all(self.stops):
            raise ValueError("stop holds an empty text, which would end every answer; leave it out")
        for message in self.messages:
            if isinstance(message, UserMessage) and isinstance(message.content, list):
                for part in message.content:
                    _check_source(part)
        self.sampling()
        return self

    @property
    def answer_tokens(self) -> int | None:
        """Limit on the answer; None where the model's default counts."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> FrameSampling | None:
        """How videos are sampled, or None for the model's own way.

        Raises:
            ValueError: the two places that may say it differ.
        """
        told = self.media_io_kwargs.video if self.media_io_kwargs and self.media_io_kwargs.video else VideoSampling()
        also = self.mm_processor_kwargs or ProcessorOptions()
        num_frames = None if told.num_frames == -1 else told.num_frames
        for name, one, other in (("fps", told.fps, also.fps), ("num_frames", num_frames, also.num_frames)):
            if one is not None and other is not None and one != other:
                raise ValueError(f"{name}={one} in media_io_kwargs and {other} in mm_processor_kwargs; give one")
        fps, num_frames = told.fps or also.fps, num_frames or also.num_frames
        if fps is None and (num_frames, told.max_frames, told.start_s, told.end_s) == (None, None, None, None):
            return None
        cap, num_frames = (told.max_frames or num_frames, None) if fps is not None else (told.max_frames, num_frames)
        return FrameSampling(fps, num_frames, cap, told.start_s, told.end_s)

    def parts(self) -> list[VideoPart | ImagePart]:
        """The media, in order."""
        return [part for _, part in self.located_parts()]

    def located_parts(self) -> list[tuple[str, VideoPart | ImagePart]]:
        """The media with the field that each stands in."""
        return [
            (f"messages.{i}.content.{j}.{part.type}", part)
            for i, message in enumerate(self.messages)
            if isinstance(message.content, list)
            for j, part in enumerate(message.content)
            if not isinstance(part, TextPart)
        ]


def url_of(part: VideoPart | ImagePart) -> str | None:
    """Where the medium is, or None where only its uuid is given."""
    place = part.video_url if isinstance(part, VideoPart) else part.image_url
    return place.url if place else None


def _check_source(part: TextPart | VideoPart | ImagePart) -> None:
    if not isinstance(part, TextPart) and part.uuid is None and url_of(part) is None:
        raise ValueError(f"a {part.type} part has neither {part.type} nor uuid; give {part.type}={{'url': ...}}")
