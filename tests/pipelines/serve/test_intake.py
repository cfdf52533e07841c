"""What every request passes first, on an app that does as it likes with the body: limits on its bytes and its time."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from pipelines.serve.config import ServeConfig
from pipelines.serve.intake import UPLOAD_PATH, Intake
from pipelines.serve.ui_routes import UI_UPLOAD_PATH, UiRoutes

CHAT = "/v1/chat/completions"
LIMITS = {"max_body_bytes": 1024, "idle_timeout_s": 0.2, "min_body_bytes_per_s": 1000.0}


async def reads(scope: Any, receive: Any, send: Any) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)}")(scope, receive, send)


async def reads_and_hides_errors(scope: Any, receive: Any, send: Any) -> None:
    """As applications that are mounted do."""
    try:
        await reads(scope, receive, send)
    except Exception:
        await PlainTextResponse("a defect", 500)(scope, receive, send)
        raise


def sent(
    app: Any, path: str, pieces: Iterable[bytes | float], headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and body of the answer to pieces of a body, with pauses in seconds between them."""
    coming = iter(pieces)
    out: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        for piece in coming:
            if isinstance(piece, bytes):
                return {"type": "http.request", "body": piece, "more_body": True}
            await asyncio.sleep(piece)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        out.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    starts = [message for message in out if message["type"] == "http.response.start"]
    assert len(starts) == 1
    return starts[0]["status"], b"".join(message.get("body", b"") for message in out)


def intake(app: Any = reads, **limits: float) -> Intake:
    settings = {"models": [{"name": "tiny", "path": "tiny"}], "auth": {"required": False}}
    config = ServeConfig.model_validate({**settings, "endpoint": LIMITS | limits, "uploads": {"max_bytes": 1000}})
    return Intake(app, config, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("app", [reads, reads_and_hides_errors])
@pytest.mark.parametrize("path", [CHAT, UPLOAD_PATH, UI_UPLOAD_PATH])
def test_a_body_that_drips_for_ever_is_given_up(app: Any, path: str) -> None:
    dripping = itertools.chain.from_iterable((b"x", 0.02) for _ in itertools.count())
    status, body = sent(intake(app), path, dripping)
    assert status == 408
    assert json.loads(body)["error"]["code"] == "timeout"


def test_a_body_that_stops_is_given_up() -> None:
    assert sent(intake(), CHAT, [b"x", 60.0])[0] == 408


def test_a_slow_body_may_take_as_long_as_its_bytes_are_worth() -> None:
    slow = [piece for _ in range(5) for piece in (b"x" * 200, 0.25)]
    assert sent(intake(idle_timeout_s=1.0), CHAT, slow) == (200, b"1000")


@pytest.mark.parametrize("app", [reads, reads_and_hides_errors])
@pytest.mark.parametrize(("path", "most"), [(CHAT, 1024), (UPLOAD_PATH, 2024), (UI_UPLOAD_PATH, 2024)])
def test_a_body_has_a_limit_whether_it_is_announced_or_not(app: Any, path: str, most: int) -> None:
    assert sent(intake(app), path, [b"x" * most]) == (200, str(most).encode())
    status, body = sent(intake(app), path, [b"x" * most, b"x"])
    assert status == 413 and json.loads(body)["error"]["code"] == "too_large"
    assert sent(intake(app), path, [], {"content-length": str(most + 1)})[0] == 413


def test_files_dropped_on_the_page_have_a_quota(tmp_path: Path) -> None:
    app = UiRoutes(reads, tmp_path, quota_bytes=100)
    assert sent(app, UI_UPLOAD_PATH, [b"x" * 50], {"content-length": "50"})[0] == 200
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "film.mp4").write_bytes(b"x" * 60)
    status, body = sent(app, UI_UPLOAD_PATH, [b"x" * 50], {"content-length": "50"})
    assert status == 413 and json.loads(body)["error"]["code"] == "quota_exceeded"
