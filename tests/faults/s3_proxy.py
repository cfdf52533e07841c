"""A proxy before an S3 server: counts what is asked for, and answers some requests with a fault.

The Host header is passed on as it came, so the signatures of requests stay valid.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.faults.s3_server import free_port

DROP = "drop"
"""A fault: the connection is closed without an answer."""


@dataclass(frozen=True)
class Request:
    """One request as it was answered; ``key`` is the path, bucket first, without its leading slash."""

    method: str
    key: str
    query: str
    status: int
    sent_bytes: int


Fault = Callable[[str, str], int | str | None]
"""Method and key -> an HTTP status to answer with, :data:`DROP`, or None to pass the request on."""


class S3Proxy:
    """Runs in a thread of this process; use it as a context manager."""

    def __init__(self, server_port: int, fault: Fault = lambda method, key: None):
        self.port, self.fault = free_port(), fault
        self.requests: list[Request] = []
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def bytes_read(self, prefix: str = "") -> dict[str, int]:
        """Bytes of objects that were sent to clients, by key."""
        read: dict[str, int] = {}
        for request in self.requests:
            if request.method == "GET" and request.key.startswith(prefix) and "list-type" not in request.query:
                read[request.key] = read.get(request.key, 0) + request.sent_bytes
        return read

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{key:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        fault = self.fault(request.method, key)
        if fault is not None:
            self._note(request, key, 0 if fault == DROP else int(fault), 0)
            if fault == DROP:
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=503 if fault == DROP else int(fault), headers={"Retry-After": "0"})
        url = URL(f"http://127.0.0.1:{self._server_port}{request.raw_path}", encoded=True)
        headers = request.headers.copy()
        headers.popall("Transfer-Encoding", None)
        try:
            return await self._pass_on(request, key, url, headers)
        except aiohttp.ClientError:
            self._note(request, key, 502, 0)
            return web.Response(status=502)

    async def _pass_on(self, request: web.Request, key: str, url: URL, headers: object) -> web.StreamResponse:
        body = await request.read()
        async with self._client.request(
            request.method,
            url,
            headers=headers,
            data=body or None,
            allow_redirects=False,  # type: ignore[arg-type]
        ) as found:
            answer = web.StreamResponse(status=found.status, headers=found.headers)
            await answer.prepare(request)
            sent_bytes = 0
            if request.method != "HEAD":
                async for block in found.content.iter_chunked(1 << 18):
                    sent_bytes += len(block)
                    await answer.write(block)
            self._note(request, key, found.status, sent_bytes)
            await answer.write_eof()
            return answer

    def _note(self, request: web.Request, key: str, status: int, sent_bytes: int) -> None:
        self.requests.append(Request(request.method, key, request.query_string, status, sent_bytes))
