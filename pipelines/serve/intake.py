"""What every request passes before a route sees it: a known key, a body that is bounded in bytes and time, an id.

Pure ASGI, so that streamed answers and uploads are not held back. Errors leave in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from pipelines.serve.auth import Key, Keys
from pipelines.serve.config import ServeConfig
from pipelines.serve.refusals import Refusal, defect
from pipelines.serve.ui_routes import UI_UPLOAD_PATH

logger = logging.getLogger("ray.serve")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset(("/health",))
UPLOAD_PATH = "/v1/videos"
REQUEST_ID = "x-request-id"
ANYBODY = Key("anybody", "")


class Intake:
    """Wraps the app.

    Args:
        app: what comes after.
        config: limits.
        keys: who may ask.
    """

    def __init__(self, app: Asgi, config: ServeConfig, keys: Keys):
        self._app, self._config, self._keys = app, config, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, uuid.uuid4().hex)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        try:
            scope["state"]["key"] = self._admitted(scope["path"], headers)
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
                return
            await self._app(scope, self._bounded(scope["path"], headers, receive, answer), answer.send)
        except Refusal as refusal:
            answer.refusal = refusal
        except Exception:
            # Only the id goes out, and into the log only the traceback: requests hold what is none of a log's business.
            if answer.refusal is None:
                logger.exception("request %s failed", answer.request_id)
                answer.refusal = defect(answer.request_id)
        if answer.refusal is not None:
            await answer.refuse(answer.refusal, scope, receive)

    def _admitted(self, path: str, headers: Headers) -> Key:
        if path in OPEN_PATHS or not self._config.auth.required:
            return ANYBODY
        # Several headers are a trick, not a choice.
        given = headers.getlist("authorization")
        key = self._keys.find(given[0]) if len(given) == 1 else None
        if key is None:
            reason = "this key is not known" if given else "the request has no API key"
            raise Refusal(401, reason, "send it as 'Authorization: Bearer KEY'", "invalid_api_key")
        return key

    def _bounded(self, path: str, headers: Headers, receive: Receive, answer: _Answer) -> Receive:
        """The body, refused when it is too long, stops coming, or drips."""
        limits = self._config.endpoint
        most = limits.max_body_bytes
        if path in (UPLOAD_PATH, UI_UPLOAD_PATH):
            # Files are counted as they are written to disk; the form around one is small.
            most += self._config.uploads.max_bytes
        if _number(headers.get("content-length")) > most:
            raise _too_long(most)
        taken, complete, begun_s = 0, False, time.monotonic()

        async def bounded() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            due_s = begun_s + limits.idle_timeout_s + taken / limits.min_body_bytes_per_s
            try:
                message = await asyncio.wait_for(receive(), min(limits.idle_timeout_s, due_s - time.monotonic()))
            except TimeoutError:
                answer.refusal = _slow(taken, time.monotonic() - begun_s)
                raise answer.refusal from None
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > most:
                answer.refusal = _too_long(most)
                raise answer.refusal
            return message

        return bounded


class _Answer:
    """The reply on its way out: with the request's id, and replaced by an error while nothing has left.

    Attributes:
        refusal: what the client is told instead; whatever the app makes of a body that was refused is not sent.
    """

    def __init__(self, send: Send, request_id: str):
        self.request_id = request_id
        self.refusal: Refusal | None = None
        self._send = send
        self._begun = False
        self._started_s = time.perf_counter()

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self._begun:
            return
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            headers["openai-processing-ms"] = f"{1e3 * (time.perf_counter() - self._started_s):.0f}"
        await self._send(message)

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive) -> None:
        if self._begun:
            return  # the status is out; the reader sees the stream end early
        if scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": 1008, "reason": refusal.reason[:100]})
            return
        reply = JSONResponse(refusal.body(), refusal.status, refusal.headers())
        await reply(scope, receive, self._pass)


def _too_long(most: int) -> Refusal:
    return Refusal(413, f"the body has more than {most} bytes", "upload media with POST /v1/videos", "too_large")


def _slow(taken: int, seconds: float) -> Refusal:
    reason = f"{taken} bytes of the body came in {seconds:.0f} s, and too little after them"
    return Refusal(408, reason, "send the request again, without pauses", "timeout")


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
