"""The chat client: what an answer was based on, and every failure as one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.chat_client import ChatClient, ChatError, Conversation, Medium, Seen
from tests.pipelines.serve.hostile import RawServer, reply


def chunk(**fields: Any) -> bytes:
    """One server-sent event of an answer."""
    heading = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps(heading | fields)}\n\n".encode()


def words(text: str, finish: str | None = None) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


SEEN = {"media": [{"kept_times_s": [0.0, 1.5], "num_sampled": 4}], "visual_tokens": 9, "cache": {"visual": True}}
DONE = b"data: [DONE]\n\n"
REPLIES = {
    "whole": reply(
        words("Two ") + words("words", "length") + chunk(choices=[], longvu=SEEN) + DONE, "text/event-stream"
    ),
    "ended": reply(words("Two "), "text/event-stream"),
    "cut": reply(words("Two "), "text/event-stream", Content_Length="9999"),
    "failed": reply(
        words("Two ") + b'data: {"error": {"message": "no replica; send it again"}}\n\n', "text/event-stream"
    ),
    "refused": reply(b'{"error": {"message": "too long; shorten it"}}', "application/json", "400 Bad Request"),
    "page": reply(b"<html>", "text/html", "404 Not Found"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    running = RawServer("127.0.0.1", lambda path, _: iter([REPLIES[path.split("/")[1]]]))
    yield running
    running.close()


def answered(server: RawServer, kind: str) -> list[str | Seen]:
    client = ChatClient(f"http://127.0.0.1:{server.port}/{kind}", "key", trust_env=False)
    try:
        return list(client.answer("m", Conversation(Medium("video:1", "video").part).asked("What?"), 5, 2.0))
    finally:
        client.close()


def test_answer(server: RawServer) -> None:
    *said, seen = answered(server, "whole")
    assert said == ["Two ", "words"]
    assert seen == Seen([[0.0, 1.5]], [4], [None], 9, cached=True, cut=True)
    assert server.requests[-1][1]["authorization"] == "Bearer key"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ended", "the answer broke off; ask again"),
        ("cut", "the connection failed .RemoteProtocolError"),
        ("failed", "no replica; send it again"),
        ("refused", "too long; shorten it"),
        ("page", "answered 404; check the address"),
    ],
)
def test_failures(kind: str, said: str, server: RawServer) -> None:
    with pytest.raises(ChatError, match=said):
        answered(server, kind)
