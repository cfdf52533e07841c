"""Everything but chats: keys on each route, models, health, metrics, uploads over HTTP, and the OpenAPI document."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import FORM, LiveEndpoint, ask, lowered, video_part

ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/captions"),
    ("GET", "/v1/captions"),
    ("POST", "/v1/videos"),
    ("GET", "/v1/videos"),
    ("GET", "/v1/videos/" + "0" * 64),
    ("DELETE", "/v1/videos/" + "0" * 64),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/nothing/here"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path[:20]}" for method, path in ROUTES])
@pytest.mark.parametrize("key", [None, "lv-wrong", ""])
def test_every_route_but_health_needs_a_key(endpoint: LiveEndpoint, method: str, path: str, key: str | None) -> None:
    if key is None:
        status, headers, body = send_bare(endpoint, method, path)
    else:
        request = urllib.request.Request(endpoint.url + path, b"" if method == "POST" else None, method=method)
        status, headers, body = endpoint.send(request, key)
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic")
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


def send_bare(endpoint: LiveEndpoint, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    connection.request(method, path)
    reply = connection.getresponse()
    found = reply.status, lowered(reply.headers), reply.read()
    connection.close()
    return found


def test_health_needs_none(endpoint: LiveEndpoint) -> None:
    status, _, body = send_bare(endpoint, "GET", "/health")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "models": {"tiny": {"replicas": 1}, "other": {"replicas": 1}}}


def test_a_browser_may_send_the_key_as_its_password(endpoint: LiveEndpoint) -> None:
    request = urllib.request.Request(endpoint.url + "/v1/models")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"me:{endpoint.key}".encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200


def test_a_key_given_twice_is_refused(endpoint: LiveEndpoint) -> None:
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    connection.putrequest("GET", "/v1/models")
    connection.putheader("Authorization", "Bearer wrong")
    connection.putheader("Authorization", f"Bearer {endpoint.key}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_models(endpoint: LiveEndpoint) -> None:
    models = {model.id: model for model in endpoint.client().models.list()}
    assert set(models) == {"tiny", "other"}
    assert models["tiny"].digest == models["other"].digest  # type: ignore[attr-defined]
    assert endpoint.client().models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError, match="use one of tiny, other"):
        endpoint.client().models.retrieve("none")


def test_uploads_are_listed_found_used_and_deleted(endpoint: LiveEndpoint, tmp_path: Path) -> None:
    path = write_video(tmp_path / "upload.mp4", [3, 2], seed=21)
    made = endpoint.upload(path)
    assert made["bytes"] == path.stat().st_size
    assert made["filename"] == "upload.mp4"
    assert made["kind"] == "video" and made["duration_s"] == pytest.approx(5, abs=0.3)
    assert made["expires_at"] > time.time()
    assert endpoint.upload(path)["id"] == made["id"]  # the same bytes, the same video
    listed = json.loads(endpoint.get("/v1/videos")[2])["data"]
    assert [video["id"] for video in listed].count(made["id"]) == 1
    assert json.loads(endpoint.get(f"/v1/videos/{made['id']}")[2])["id"] == made["id"]
    request = urllib.request.Request(f"{endpoint.url}/v1/videos/{made['id']}", method="DELETE")
    assert json.loads(endpoint.send(request)[2]) == {"id": made["id"], "object": "video", "deleted": True}
    assert endpoint.get(f"/v1/videos/{made['id']}")[0] == 404
    with pytest.raises(openai.NotFoundError, match="upload it"):
        endpoint.client().chat.completions.create(
            model="tiny", messages=ask(video_part(f"video:{made['id']}"), "What?"), max_tokens=2
        )


def form(name: str, content: bytes) -> tuple[bytes, str]:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../../x.mp4"\r\n\r\n'.encode()
    return head + content + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (*form("file", b"this is no video"), 415, "not a video"),
        (*form("video", b"abc"), 400, "no file"),
        (*form("file", b""), 400, "empty"),
        (form("file", b"abc")[0][:-8], "multipart/form-data; boundary=b", 400, "last boundary"),
        (b"{}", "application/json", 400, "no form"),
        (b"garbage", "multipart/form-data; boundary=b", 400, "one file in the field 'file'"),
        (b"", "multipart/form-data", 400, "no form"),
    ],
    ids=["text", "field", "empty", "cut", "json", "garbage", "boundary"],
)
def test_uploads_that_are_refused(
    endpoint: LiveEndpoint, body: bytes, content_type: str, status: int, message: str
) -> None:
    found, _, reply = endpoint.post("/v1/videos", body, content_type)
    assert found == status, reply
    assert message in json.loads(reply)["error"]["message"]


def test_a_body_that_is_too_long_or_stops_coming_is_refused(endpoint: LiveEndpoint) -> None:
    for path in ("/v1/chat/completions", "/v1/videos"):
        status, reply = begun_body(endpoint, path, announced=1 << 30)
        assert status == 413 and reply["error"]["code"] == "too_large"
    status, reply = begun_body(endpoint, "/v1/chat/completions", announced=1000)
    assert status == 408 and reply["error"]["code"] == "timeout"


def begun_body(endpoint: LiveEndpoint, path: str, announced: int) -> tuple[int, Any]:
    """The answer to a body of which only the first bytes come, while its connection stays open."""
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Authorization", f"Bearer {endpoint.key}")
    connection.putheader("Content-Length", str(announced))
    connection.endheaders()
    connection.send(b'{"model":')
    reply = connection.getresponse()
    found = reply.status, json.loads(reply.read())
    connection.close()
    return found


def test_the_client_library_reads_errors(endpoint: LiveEndpoint) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        endpoint.client().post("/videos", cast_to=dict, files={"video": ("x", b"abc")}, options=FORM)
    assert refused.value.body["param"] == "file"  # type: ignore[index]


def test_metrics_count_what_was_answered(endpoint: LiveEndpoint) -> None:
    def answered() -> float:
        return endpoint.metric("longvu_requests_total", model="other", status="200")

    before = answered()
    endpoint.client().chat.completions.create(model="other", messages=ask("Hello"), max_tokens=3)
    assert answered() == before + 1
    status, headers, page = endpoint.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    for name in ("longvu_active_slots", "longvu_first_token_seconds_bucket", "longvu_tokens_total"):
        assert name.encode() in page


def test_secrets_are_neither_in_logs_nor_in_errors(endpoint: LiveEndpoint) -> None:
    secret = "https://user:hunter2@example.org/v.mp4?token=hunter2"
    with pytest.raises(openai.APIStatusError) as refused:
        endpoint.client().chat.completions.create(model="tiny", messages=ask(video_part(secret), "What?"))
    assert "hunter2" not in refused.value.response.text
    logs = list((endpoint.config.workdir / "logs").iterdir())
    assert logs
    for path in logs:
        text = path.read_bytes() if path.is_file() else b""
        assert endpoint.key.encode() not in text and b"hunter2" not in text, path
