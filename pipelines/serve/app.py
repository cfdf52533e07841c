"""The HTTP routes, in OpenAI's shapes. What they do with a request is in the modules that they call."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from pipelines.serve import metrics, replies
from pipelines.serve.caption_protocol import CaptionRequest
from pipelines.serve.completions import Answer, Heading, server_sent, server_sent_captions
from pipelines.serve.config import ServeConfig
from pipelines.serve.guard import MediaRefused
from pipelines.serve.intake import UPLOAD_PATH
from pipelines.serve.protocol import UNSUPPORTED, ChatRequest
from pipelines.serve.refusals import INVALID, Refusal, defect, media_refused, unavailable
from pipelines.serve.service import Service
from pipelines.serve.videos import VIDEO_ID, Uploads

CAPTIONS_PATH = "/v1/captions"
_CHAT_ERRORS = replies.error_responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 424, 429, 500, 503)
_READ_ERRORS = replies.error_responses(400, 401, 404, 500)
_UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
                }
            }
        },
    }
}
_SSE = "text/event-stream"
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def build_app(
    config: ServeConfig, service: Service, uploads: Uploads, metrics_page: Callable[[], Awaitable[bytes]]
) -> FastAPI:
    """The routes.

    Args:
        service: answers chats.
        uploads: of ``/v1/videos``.
        metrics_page: of all processes.
    """
    app = FastAPI(title="longvu", description=__doc__, version="1", redoc_url=None, openapi_tags=[])
    app.openapi_version = "3.1.0"
    _add_errors(app)
    _complete_document(app, service, config.auth.required)
    _add_answers(app, service)
    _add_uploads(app, uploads)
    _add_models(app, service)

    @app.get("/metrics", response_class=Response, responses=_METRICS | _READ_ERRORS)
    async def prometheus() -> Response:
        """Prometheus metrics of all processes of the endpoint."""
        return Response(await metrics_page(), media_type=metrics.CONTENT_TYPE)

    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    """Chats and captions."""

    @app.post("/v1/chat/completions", response_model=replies.ChatCompletion, responses=_CHAT_RESPONSES)
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """Answer a conversation about videos and images."""
        answering = service.answering(asked, request.state.key)
        if asked.stream:
            return _Streamed(_chat_chunks(answering, asked))
        return await _whole_answer(answering, asked)

    @app.post(CAPTIONS_PATH, response_class=Response, responses=_CAPTION_RESPONSES)
    async def post_captions(asked: CaptionRequest) -> Any:
        """Caption a video scene by scene, while it is decoded."""
        return _Streamed(_caption_events(service.captioning(asked)))

    @app.get(CAPTIONS_PATH, response_class=Response, responses=_CAPTION_RESPONSES)
    async def get_captions(asked: Annotated[CaptionRequest, Query()]) -> Any:
        """The same for EventSource, which cannot post."""
        return _Streamed(_caption_events(service.captioning(asked)))


def _add_uploads(app: FastAPI, uploads: Uploads) -> None:
    @app.post(UPLOAD_PATH, responses=_CHAT_ERRORS, openapi_extra=_UPLOAD_FORM)
    async def upload(request: Request) -> replies.VideoObject:
        """Keep a video or picture, to be asked about as ``video:<id>``."""
        length = request.headers.get("content-length", "")
        announced_bytes = int(length) if length.isascii() and length.isdigit() else 0
        return await uploads.receive(request.stream(), request.headers.get("content-type", ""), announced_bytes)

    @app.get(UPLOAD_PATH, responses=_READ_ERRORS)
    def videos() -> replies.VideoList:
        """The uploads, newest first."""
        return replies.VideoList(data=uploads.list())

    @app.get(UPLOAD_PATH + "/{video_id}", responses=_READ_ERRORS)
    def video(video_id: str = _VIDEO_ID) -> replies.VideoObject:
        """One upload."""
        return uploads.find(video_id) or _no_video(video_id)

    @app.delete(UPLOAD_PATH + "/{video_id}", responses=_READ_ERRORS)
    def delete(video_id: str = _VIDEO_ID) -> replies.Deleted:
        """Delete an upload. Answers about it that have begun go on."""
        return replies.Deleted(id=video_id) if uploads.delete(video_id) else _no_video(video_id)


def _add_models(app: FastAPI, service: Service) -> None:
    """Models, and whether they answer."""

    @app.get("/v1/models", responses=_READ_ERRORS)
    def models() -> replies.ModelList:
        """The models that requests may name."""
        described = [_described(name, service) for name in service.backends if service.backends[name].info]
        return replies.ModelList(data=described)

    @app.get("/v1/models/{name}", responses=_READ_ERRORS | replies.error_responses(503))
    def model(name: str) -> replies.ModelObject:
        """One model."""
        service.backend(name)
        return _described(name, service)

    @app.get("/health", responses={503: {"model": replies.Health}})
    def health() -> Any:
        """Whether every model has a replica that answers. The one route without a key."""
        counts = {name: replies.ModelHealth(replicas=one.num_replicas) for name, one in service.backends.items()}
        ready = all(model.replicas for model in counts.values())
        state = replies.Health(status="ok" if ready else "starting", models=counts)
        return JSONResponse(state.model_dump(), 200 if ready else 503)


_VIDEO_ID = Path(pattern=f"^{VIDEO_ID.pattern}$", description="SHA-256 of the video's bytes")
_CHAT_RESPONSES = _CHAT_ERRORS | {
    200: {
        "description": "The answer; with stream=true as server-sent events, each a ChatChunk",
        "content": {_SSE: {"schema": {"type": "string"}}},
    }
}
_EXAMPLE = replies.VideoCaption(
    model="tiny_videollamb", start_s=0, end_s=41, text="A man cooks.", frames=8, visual_tokens=288, seconds=0.2
)
_CAPTION_RESPONSES = _CHAT_ERRORS | {
    200: {
        "description": f"Server-sent events, one for each scene: {', '.join(replies.VideoCaption.model_fields)}; "
        "then [DONE], or an error if the rest cannot be told",
        "content": {_SSE: {"schema": {"type": "string"}, "example": f"data: {_EXAMPLE.model_dump_json()}\n\n"}},
    }
}
_METRICS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


class _Streamed(Response):
    """Sends events; as long as the first has not been asked for, a refusal can still take their place."""

    def __init__(self, opened: AbstractAsyncContextManager[AsyncIterator[bytes]]):
        super().__init__()
        self._opened = opened

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._opened as events:
            stream = StreamingResponse(events, media_type=_SSE, headers=_SSE_HEADERS)
            await stream(scope, receive, send)


@contextlib.asynccontextmanager
async def _chat_chunks(
    answering: AbstractAsyncContextManager[tuple[Heading, Any]], asked: ChatRequest
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with answering as (heading, events):
        yield server_sent(events, heading, with_logprobs=bool(asked.logprobs), with_usage=asked.with_usage)


@contextlib.asynccontextmanager
async def _caption_events(captioning: AbstractAsyncContextManager[Any]) -> AsyncIterator[AsyncIterator[bytes]]:
    async with captioning as captions:
        yield server_sent_captions(captions)


async def _whole_answer(
    answering: AbstractAsyncContextManager[tuple[Heading, Any]], asked: ChatRequest
) -> replies.ChatCompletion:
    answer = Answer()
    async with answering as (heading, events):
        async for event in events:
            if isinstance(event, Refusal):
                raise event
            answer.add(event)
    if answer.finished is None:
        raise unavailable(asked.model)
    return answer.completion(heading, bool(asked.logprobs))


def _described(name: str, service: Service) -> replies.ModelObject:
    info = service.backend(name).info
    if info is None:
        raise unavailable(name)
    return replies.ModelObject(
        id=name, created=info.created, max_model_len=info.max_length, digest=info.digest, family=info.family
    )


def _no_video(video_id: str) -> Any:
    raise Refusal(404, f"there is no upload {video_id!r}", "GET /v1/videos lists them", "not_found", "video_id")


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(MediaRefused)
    async def unusable(request: Request, medium: MediaRefused) -> JSONResponse:
        return await refused(request, media_refused(medium))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        refusal = _validation_refusal(error)
        return JSONResponse(refusal.body(), refusal.status)

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> JSONResponse:
        refusal = defect(request.state.request_id)
        return JSONResponse(refusal.body(), refusal.status)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        fix = "GET /openapi.json lists the routes and their methods"
        reason = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        refusal = Refusal(error.status_code, reason, fix, "not_found" if error.status_code == 404 else INVALID)
        return JSONResponse(refusal.body(), refusal.status, {**(error.headers or {}), **refusal.headers()})


def _validation_refusal(error: RequestValidationError) -> Refusal:
    """The problem of a request that lies deepest: the others are about members of a union that were not meant.

    Values are not repeated: they may be secrets, or long.
    """
    problem = max(error.errors(), key=lambda one: (len(one["loc"]), one["type"] != "string_type"))
    location = _fields(problem["loc"])
    place = ".".join(location) or None
    unsupported = next((part for part in location if part in UNSUPPORTED), None)
    if problem["type"] == "json_invalid":
        fix = "send a JSON object with Content-Type: application/json"
        return Refusal(400, "the body is not valid JSON", fix, "invalid_json")
    if unsupported is not None:
        fix = UNSUPPORTED[unsupported]
        return Refusal(400, f"{place} is not supported as given", fix, "unsupported_parameter", place)
    if problem["type"] == "extra_forbidden":
        return Refusal(400, f"{place} is not a field of this endpoint", "leave it out", "unknown_parameter", place)
    reason = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    told = f"{place}: {reason}" if place else reason
    return Refusal(400, told, "see /docs for what is allowed", "invalid_value", place)


_ROLES = frozenset(("system", "developer", "user", "assistant"))


def _fields(location: Sequence[str | int]) -> list[str]:
    """A location without what pydantic adds for the member of a union that it tried."""
    fields: list[str] = []
    tagged = False
    for part in location[1:]:
        if isinstance(part, str) and ("[" in part or part == "str" or part in _ROLES):
            tagged = "tagged-union" in part
        elif tagged and isinstance(part, str):
            tagged = False
        else:
            fields.append(str(part))
    return fields


def _complete_document(app: FastAPI, service: Service, key_required: bool) -> None:
    """Say in the OpenAPI document which models there are, and that routes need a key."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for request in ("ChatRequest", "CaptionRequest"):
            document["components"]["schemas"][request]["properties"]["model"]["enum"] = list(service.backends)
        if key_required:
            schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
            document["components"]["securitySchemes"] = schemes
            document["security"] = [{"bearer": []}, {"basic": []}]
            document["paths"]["/health"]["get"]["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
