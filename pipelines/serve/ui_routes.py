"""Of the many routes that Gradio brings, those that the chat page uses; and what browsers may load beside them."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse

_API = "gradio_api"
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
    """ASGI middleware: other routes below ``path`` do not exist, and no page of it loads anything from elsewhere."""

    def __init__(self, app: Any, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not self._is_below(scope["path"]):
            await self._app(scope, receive, send)
            return
        route = f"{scope['method']} {scope['path'].removeprefix(self._path).rstrip('/') or '/'}"
        if not _ALLOWED.fullmatch(route):
            error = {
                "message": "there is no such page; open /ui",
                "type": "not_found_error",
                "param": None,
                "code": None,
            }
            await JSONResponse({"error": error}, 404)(scope, receive, send)
            return

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _is_below(self, path: str) -> bool:
        return path == self._path or path.startswith(f"{self._path}/")
