"""What a request for captions may hold: the same fields in a POST's body and in a GET's query."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.serve.protocol import Finite, Strict, Text

_URL = "as of video_url in a chat: http(s)://, data:, file:// under an allowed root, or video:<id> of an upload"


class CaptionRequest(Strict):
    """``/v1/captions``: a text for each scene of a video, sent as soon as the scene has ended."""

    model: Annotated[Text, Field(description="a VideoLLaMB; /v1/models says the family of each")]
    url: Annotated[Text, Field(min_length=1, description=_URL)]
    question: Annotated[Text, Field(min_length=1, max_length=8000, description="asked about each scene")] | None = None
    fps: Annotated[Finite, Field(gt=0, le=60, description="frames looked at per second; 1 by default")] = 1.0
    shortest_s: Annotated[Finite, Field(ge=0, le=1e5, description="of a scene at least, in seconds")] = 8.0
    longest_s: Annotated[Finite, Field(gt=0, le=1e5, description="and at most")] = 120.0
    max_tokens: Annotated[int, Field(ge=1, le=4096, description="of each caption")] = 64
