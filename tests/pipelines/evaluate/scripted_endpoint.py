"""A real HTTP server that speaks OpenAI's protocol and answers by a script instead of a model: for tests."""

from __future__ import annotations

import json
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Scripted:
    """What the server does with a request: a status with a text, or, with status 0, an end of the connection."""

    text: str | None = "A"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[dict[str, Any]], Scripted]


def text_of(request: dict[str, Any]) -> str:
    """The text that a request's last user turn has after its media."""
    content = next(m for m in reversed(request["messages"]) if m["role"] == "user")["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def media_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts before that text."""
    return list(request["messages"][-1]["content"][:-1])


def by_checksum(request: dict[str, Any]) -> Scripted:
    """The same letter for the same question, whoever asks and when."""
    return Scripted("ABCD"[zlib.crc32(text_of(request).encode()) % 4])


class ScriptedEndpoint:
    """Use it as a context manager; ``requests`` has the body of every request that came."""

    def __init__(self, script: Script = by_checksum):
        self.script, self.requests = script, list[dict[str, Any]]()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.requests.append(request)
                    endpoint.keys.append(self.headers.get("Authorization"))
                said = endpoint.script(request)
                if said.status == 0:
                    self.close_connection = True
                    return
                body = json.dumps(_completion(request, said) if said.status == 200 else _error(said)).encode()
                self.send_response(said.status)
                for name, value in {"Content-Type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # of a client that was killed
                    super().handle_error(request, client_address)

        self._lock = threading.Lock()
        self.keys: list[str | None] = []
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _completion(request: dict[str, Any], said: Scripted) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.text}
    return {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _error(said: Scripted) -> dict[str, Any]:
    return {"error": {"message": said.text, "type": "scripted", "code": None, "param": None}}
