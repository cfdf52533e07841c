"""Of the many routes that Gradio brings, those that the chat page uses; and what browsers may load beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from pipelines.serve.refusals import Refusal
from pipelines.serve.videos import held_bytes

PATH = "/ui"
_API = "gradio_api"
UI_UPLOAD_PATH = f"{PATH}/{_API}/upload"
_ALLOWED = re.compile(
    rf"(GET|HEAD) (/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*"
    rf"|/{_API}/(info|app_id|startup-events|theme\.css|queue/data|upload_progress|heartbeat/[^/]+)"
    rf"|/{_API}/file=/[^:]*)"
    rf"|POST /{_API}/(queue/join|upload|cancel|reset)"
)
# Scripts and styles stand in the page; everything else comes from the page's own origin.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class UiRoutes:
    """ASGI middleware: other routes below :data:`PATH` do not exist, and no page loads anything from elsewhere.

    Args:
        folder: where dropped files lie.
        quota_bytes: of all of them together; files dropped beyond it are refused.
    """

    def __init__(self, app: Any, folder: Path, quota_bytes: int) -> None:
        self._app, self._folder, self._quota_bytes = app, folder, quota_bytes

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        route = f"{scope['method']} {path.removeprefix(PATH).rstrip('/') or '/'}"
        refusal = None if _ALLOWED.fullmatch(route) else Refusal(404, "there is no such page", "open /ui", "not_found")
        if path.rstrip("/") == UI_UPLOAD_PATH:
            refusal = refusal or self._over_quota(Headers(scope=scope).get("content-length", ""))
        if refusal is not None:
            await JSONResponse(refusal.body(), refusal.status)(scope, receive, send)
            return

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _over_quota(self, announced: str) -> Refusal | None:
        coming_bytes = int(announced) if announced.isascii() and announced.isdigit() else 0
        used_bytes = coming_bytes + held_bytes(self._folder)
        if used_bytes <= self._quota_bytes:
            return None
        reason = f"dropped files would take {used_bytes} of {self._quota_bytes} bytes"
        return Refusal(413, reason, "they are deleted after a day", "quota_exceeded")
