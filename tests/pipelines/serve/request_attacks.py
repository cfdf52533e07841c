"""Requests that are attacks: without a key on every route, tricks with paths and headers, bodies that are too much."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.pipelines.serve import hostile
from tests.pipelines.serve.hostile import SECRET

_NO_VIDEO = "0" * 64
ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/captions"),
    ("GET", "/v1/captions"),
    ("POST", "/v1/videos"),
    ("GET", "/v1/videos"),
    ("GET", f"/v1/videos/{_NO_VIDEO}"),
    ("DELETE", f"/v1/videos/{_NO_VIDEO}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/ui/"),
    ("GET", "/ui/config"),
    ("GET", "/ui/gradio_api/file=/etc/passwd"),
    ("POST", "/ui/gradio_api/queue/join"),
    ("POST", "/ui/gradio_api/upload"),
    ("GET", "/no/such/route"),
]


@dataclass(frozen=True)
class Target:
    """Where an endpoint listens, and the key that it admits."""

    port: int
    key: str


@dataclass(frozen=True)
class RequestAttack:
    """Bytes sent to the endpoint as they are, in pieces.

    Attributes:
        send: the pieces, made for a target; time may pass between them.
        statuses: HTTP statuses that the reply may have. 0: the connection is closed without one.
    """

    name: str
    send: Callable[[Target], Iterable[bytes]]
    statuses: tuple[int, ...]


def media_request(target: Target, url: str, kind: str = "video", **more: Any) -> bytes:
    """A chat request about one medium."""
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
    content = [part, {"type": "text", "text": "What is this?"}]
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": content}], **more}
    return chat(target, json.dumps(body).encode())


def chat(target: Target, body: bytes, kind: str = "application/json") -> bytes:
    """A chat request with that body and the right key."""
    return request("POST", "/v1/chat/completions", [bearer(target), f"Content-Type: {kind}"], body)


def bearer(target: Target) -> str:
    return f"Authorization: Bearer {target.key}"


def request(method: str, path: str, headers: Iterable[str] = (), body: bytes = b"") -> bytes:
    """A request as HTTP/1.1 writes it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def credentials(target: Target) -> dict[str, tuple[list[str], str]]:
    """Ways not to have the key: headers and query."""
    digest = hashlib.sha256(target.key.encode()).hexdigest()
    basic = base64.b64encode(b"user:wrong").decode()
    swapped = base64.b64encode(f"{target.key}:".encode()).decode()
    return {
        "no key": ([], ""),
        "wrong key": (["Authorization: Bearer lv-wrong"], ""),
        "cut key": ([f"Authorization: Bearer {target.key[:-1]}"], ""),
        "longer key": ([f"Authorization: Bearer {target.key}x"], ""),
        "other case": ([f"Authorization: Bearer {target.key.swapcase()}"], ""),
        "no scheme": ([f"Authorization: {target.key}"], ""),
        "empty bearer": (["Authorization: Bearer "], ""),
        "hash of the key": ([f"Authorization: Bearer {digest}"], ""),
        "entry of the key": ([f"Authorization: Bearer sha256:{digest}"], ""),
        "wrong password": ([f"Authorization: Basic {basic}"], ""),
        "key as user name": ([f"Authorization: Basic {swapped}"], ""),
        "broken base64": (["Authorization: Basic !!!"], ""),
        "right and wrong key": ([bearer(target), "Authorization: Bearer wrong"], ""),
        "key in the query": ([], f"?api_key={target.key}"),
        "key in another header": ([f"X-API-Key: {target.key}", f"Cookie: key={target.key}"], ""),
    }


def key_attacks(target: Target) -> Iterator[RequestAttack]:
    """Every route without, or with a wrong, key."""
    for method, path in ROUTES:
        for name, (headers, query) in credentials(target).items():
            data = request(method, path + query, headers)
            yield RequestAttack(f"{name}: {method} {path}", lambda _, data=data: [data], (401,))


def _plain(method: str, path: str, *headers: str) -> Callable[[Target], Iterable[bytes]]:
    return lambda _: [request(method, path, headers)]


def _with_key(method: str, path: str, body: bytes = b"", *headers: str) -> Callable[[Target], Iterable[bytes]]:
    return lambda target: [request(method, path, [bearer(target), *headers], body)]


def _smuggled(target: Target) -> Iterable[bytes]:
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    head = "POST /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n"
    return [head.encode() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner]


def _endless_chunks(target: Target) -> Iterator[bytes]:
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Connection: close", bearer(target)]
    yield ("\r\n".join([*head, "Content-Type: application/json", "Transfer-Encoding: chunked"]) + "\r\n\r\n").encode()
    for _ in range(4096):
        yield b"10000\r\n" + b" " * 65536 + b"\r\n"


def _stalled_body(target: Target) -> Iterator[bytes]:
    data = chat(target, b"{" + b" " * 1000)
    yield data[:-500]


def _upload(target: Target, content: bytes, field: str = "file", boundary: str = "b") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="../../../etc/cron.d/evil"'
    body = f"--b\r\n{disposition}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"
    kind = f"Content-Type: multipart/form-data; boundary={boundary}"
    return request("POST", "/v1/videos", [bearer(target), kind], body)


def _body(**fields: Any) -> bytes:
    """A chat body that is right but for ``fields``."""
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], **fields}).encode()


def _more(text: bytes) -> Callable[[Target], Iterable[bytes]]:
    """A right chat body with more fields, as JSON text."""
    return lambda target: [chat(target, _body().replace(b'"Hello"}]', b'"Hello"}], ' + text))]


def _announced(path: str, kind: str) -> Callable[[Target], Iterable[bytes]]:
    """The head of a request whose body would have 100 GB."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return lambda target: [f"{head}{bearer(target)}\r\nContent-Length: 99999999999\r\n\r\n".encode()]


def _many_media(target: Target) -> Iterable[bytes]:
    parts = [{"type": "video_url", "video_url": {"url": "http://127.0.0.1/"}}] * 500
    return [chat(target, _body(messages=[{"role": "user", "content": parts}]))]


# Without a key: whatever the path or the headers say, the answer is not that of an open route.
TRICKS = [
    RequestAttack("open route and dots", _plain("GET", "/health/../v1/models"), (400, 401, 404)),
    RequestAttack("open route and encoded dots", _plain("GET", "/health/%2e%2e/v1/models"), (400, 401, 404)),
    RequestAttack("open route and semicolon", _plain("GET", "/health;/v1/models"), (400, 401, 404)),
    RequestAttack("open route below", _plain("GET", "/health/v1/models"), (400, 401, 404)),
    RequestAttack("two slashes", _plain("GET", "//v1/models"), (400, 401, 404)),
    RequestAttack("dot in the path", _plain("GET", "/./v1/models"), (400, 401, 404)),
    RequestAttack("NUL in the path", _plain("GET", "/v1/models%00"), (400, 401, 404)),
    RequestAttack("upper case", _plain("GET", "/V1/MODELS"), (400, 401, 404)),
    RequestAttack("absolute URL", _plain("GET", "http://127.0.0.1/v1/models"), (400, 401, 404)),
    RequestAttack("rewritten URL", _plain("GET", "/v1/models", "X-Original-URL: /health"), (401,)),
    RequestAttack("forwarded from here", _plain("GET", "/v1/models", "X-Forwarded-For: 127.0.0.1"), (401,)),
    RequestAttack("real address", _plain("GET", "/v1/models", "X-Real-IP: ::1", "Forwarded: for=127.0.0.1"), (401,)),
    RequestAttack("forwarded prefix", _plain("GET", "/v1/models", "X-Forwarded-Prefix: /health"), (401,)),
    RequestAttack("other method", _plain("POST", "/v1/models", "X-HTTP-Method-Override: GET"), (401,)),
    RequestAttack("HEAD", _plain("HEAD", "/v1/models"), (401,)),
    RequestAttack("OPTIONS", _plain("OPTIONS", "/v1/models", "Origin: http://evil.test"), (401,)),
    RequestAttack("TRACE", _plain("TRACE", "/v1/models"), (400, 401, 405)),
    RequestAttack("CONNECT", _plain("CONNECT", "127.0.0.1:22"), (400, 401, 404, 405)),
    RequestAttack("WebSocket", _plain(
        "GET", "/v1/models", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ), (400, 401, 403, 404)),
    RequestAttack("session of another replica", _plain("GET", "/v1/models", "x-session-id: 1"), (401,)),
    RequestAttack("smuggled request", _smuggled, (0, 400, 401, 405)),
    RequestAttack("no HTTP", lambda _: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], (0, 400)),
    RequestAttack("header of 1 MB", _plain("GET", "/v1/models", f"X-A: {'a' * (1 << 20)}"), (0, 400, 401, 431)),
    RequestAttack("100000 headers", _plain("GET", "/v1/models", *["X-A: a"] * 100_000), (0, 400, 401, 431)),
    RequestAttack("line break in a header", _plain("GET", "/v1/models", "X-A: b\nX-B: c"), (0, 400, 401)),
]  # fmt: skip

# With the key: bodies that are too much, or not what they say.
BODIES = [
    RequestAttack("gigabytes announced", _announced("/v1/chat/completions", "application/json"), (413,)),
    RequestAttack("upload of gigabytes announced", _announced("/v1/videos", "multipart/form-data; boundary=b"), (413,)),
    RequestAttack("endless body in chunks", _endless_chunks, (413,)),
    RequestAttack("body beyond the cap", lambda t: [chat(t, _body(user="a" * (6 << 20)))], (413,)),
    RequestAttack("body that stops", _stalled_body, (408,)),
    RequestAttack("deep JSON", lambda t: [chat(t, b"[" * 200_000)], (400,)),
    RequestAttack("deep content", lambda t: [chat(t, _body().replace(b'"Hello"', b"[" * 5000 + b"]" * 5000))], (400,)),
    RequestAttack("no JSON", lambda t: [chat(t, b"model=tiny")], (400,)),
    RequestAttack("JSON list", lambda t: [chat(t, b"[]")], (400,)),
    RequestAttack("no UTF-8", lambda t: [chat(t, b'{"model": "\xff\xfe"}')], (400,)),
    RequestAttack("a form from another site", lambda t: [chat(t, _body(), "text/plain")], (400, 415, 422)),
    RequestAttack("a form", lambda t: [chat(t, _body(), "application/x-www-form-urlencoded")], (400, 415, 422)),
    RequestAttack("not a number", _more(b'"top_p": NaN'), (400,)),
    RequestAttack("infinite temperature", _more(b'"temperature": 1e999'), (400,)),
    RequestAttack("a billion tokens", lambda t: [chat(t, _body(max_tokens=10**9))], (400,)),
    RequestAttack("a billion answers", lambda t: [chat(t, _body(n=10**9))], (400,)),
    RequestAttack("a number of 5000 digits", _more(b'"seed": ' + b"9" * 5000), (400,)),
    RequestAttack("500 videos", _many_media, (400, 403)),
    RequestAttack("unknown field", lambda t: [chat(t, _body(file_roots=["/"]))], (400,)),
    RequestAttack("unknown model", lambda t: [chat(t, _body(model="../../etc/passwd"))], (404,)),
    RequestAttack("id of no video", lambda t: [media_request(t, f"video:{_NO_VIDEO}")], (404,)),
    RequestAttack("id with dots", lambda t: [media_request(t, "video:../../../etc/passwd")], (400, 404)),
    RequestAttack("id with encoded dots", lambda t: [media_request(t, "video:%2e%2e%2fetc%2fpasswd")], (400, 404)),
    RequestAttack("uuid with dots", lambda t: [chat(t, _body(messages=[{"role": "user", "content": [
        {"type": "video_url", "uuid": "../../etc/passwd"}]}]))], (400, 404)),
    RequestAttack("file of dots by route", _with_key("GET", "/v1/videos/..%2f..%2fetc%2fpasswd"), (400, 404)),
    RequestAttack("deletion of dots", _with_key("DELETE", "/v1/videos/%2e%2e"), (400, 404, 405)),
    RequestAttack("upload of text", lambda t: [_upload(t, SECRET.encode())], (415,)),
    RequestAttack("upload of a playlist", lambda t: [_upload(t, hostile.playlist("file:///etc/passwd"))], (415,)),
    RequestAttack("upload of a zip bomb", lambda t: [_upload(t, hostile.zip_bomb())], (415,)),
    RequestAttack("upload of a GIF bomb", lambda t: [_upload(t, hostile.gif(65535, 65535))], (413, 415, 422)),
    RequestAttack("upload of a PNG bomb", lambda t: [_upload(t, hostile.png(60000, 60000))], (413,)),
    RequestAttack("upload of ten days", lambda t: [_upload(t, hostile.long_video(864_000.0))], (413,)),
    RequestAttack("upload beyond the cap", lambda t: [_upload(t, bytes(9 << 20))], (413,)),
    RequestAttack("upload of nothing", lambda t: [_upload(t, b"")], (400, 415, 422)),
    RequestAttack("upload in another field", lambda t: [_upload(t, b"x", field="path")], (400, 422)),
    RequestAttack("upload with another boundary", lambda t: [_upload(t, b"x", boundary="c")], (400, 422)),
    RequestAttack("upload without form", _with_key("POST", "/v1/videos", b"x", "Content-Type: video/mp4"), (400, 415)),
    RequestAttack("chat page: system file", _with_key("GET", "/ui/gradio_api/file=/etc/passwd"), (403, 404)),
    RequestAttack("chat page: dots", _with_key("GET", "/ui/gradio_api/file=/tmp/../etc/passwd"), (403, 404)),
    RequestAttack("chat page: proxy", _with_key("GET", "/ui/gradio_api/proxy=http://127.0.0.1/secret"), (404,)),
    RequestAttack("chat page: redirect", _with_key("GET", "/ui/gradio_api/file=http://evil.test/"), (404,)),
    RequestAttack("chat page: component code", _with_key("POST", "/ui/gradio_api/component_server", b"{}"), (404,)),
    RequestAttack("chat page: monitoring", _with_key("GET", "/ui/monitoring"), (404,)),
    RequestAttack("chat page: run", _with_key("POST", "/ui/gradio_api/run/open_file", b"{}"), (404,)),
]  # fmt: skip
