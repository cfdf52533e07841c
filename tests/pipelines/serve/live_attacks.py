"""Attacks on a running endpoint: every media attack as a chat request, and requests that are attacks themselves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tests.pipelines.serve import hostile
from tests.pipelines.serve.attacks import Attack
from tests.pipelines.serve.hostile import SECRET
from tests.pipelines.serve.request_attacks import RequestAttack, Target, bearer, media_request, request

PATIENCE_S = 60.0
SEND_PATIENCE_S = 5.0


def exchange(port: int, pieces: Iterable[bytes]) -> tuple[int, bytes]:
    """Status and everything that came back; 0 if the connection was closed without a status."""
    reply = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SEND_PATIENCE_S) as connection:
        # Who has refused stops reading: what is left cannot be sent then.
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                connection.sendall(piece)
        connection.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                reply += data
    words = reply.split(maxsplit=2)
    return (int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0), reply


def check_media_attack(target: Target, attack: Attack, enemy: hostile.Hostile) -> None:
    """Raise ``AssertionError`` unless the endpoint refuses the attack and tells nothing."""
    trapped = len(enemy.trap.requests)
    status, reply = exchange(target.port, [media_request(target, attack.made(enemy.world), attack.kind)])
    assert status in (*attack.statuses, 400, 413), f"{attack.name}: {status} {reply[-300:]!r}"
    check_refusal(attack.name, status, reply)
    assert len(enemy.trap.requests) == trapped, f"{attack.name}: the service behind the wall was reached"


def check_request_attack(target: Target, attack: RequestAttack) -> None:
    """The same for a request."""
    status, reply = exchange(target.port, attack.send(target))
    assert status in attack.statuses, f"{attack.name}: {status} {reply[:300]!r}"
    check_refusal(attack.name, status, reply)
    assert target.key.encode() not in reply, f"{attack.name}: the reply repeats the key"


def check_refusal(name: str, status: int, reply: bytes) -> None:
    """What every refusal must be: a client's error in OpenAI's shape, without secrets or insides."""
    assert status == 0 or 400 <= status < 500, f"{name}: {status}"
    for secret in (SECRET.encode(), b"root:x:0", b"Traceback", b"site-packages", b"/proc/"):
        assert secret not in reply, f"{name}: the reply holds {secret!r}"
    body = reply.partition(b"\r\n\r\n")[2]
    if b"application/json" in reply and body:  # a reply to HEAD has none
        told = json.loads(body)
        # Gradio's own refusals have a detail instead.
        assert told["error"]["message"] if "error" in told else told["detail"], name


def check_page_opens_nothing(target: Target, enemy: hostile.Hostile) -> None:
    """The chat page is told that a dropped file lies at an address, or elsewhere on the server; it opens neither."""
    _, page = exchange(target.port, [request("GET", "/ui/config", [bearer(target)])])
    config = json.loads(page.partition(b"\r\n\r\n")[2])
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "open_file")
    world = enemy.world
    addresses = (f"http://{hostile.SERVER}:{world.server}/good.mp4", f"http://{hostile.TRAP}:{world.trap}/secret")
    for path in (*addresses, "/etc/passwd", str(world.outside / "secret.mp4")):
        asked = len(enemy.server.requests) + len(enemy.trap.requests)
        file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
        session = hashlib.sha256(path.encode()).hexdigest()[:11]
        body = json.dumps({"data": [file, None], "fn_index": number, "session_hash": session}).encode()
        headers = [bearer(target), "Content-Type: application/json"]
        exchange(target.port, [request("POST", "/ui/gradio_api/queue/join", headers, body)])
        listen = request("GET", f"/ui/gradio_api/queue/data?session_hash={session}", [bearer(target)])
        _, events = exchange(target.port, [listen])
        assert b'"success":false' in events and b"root:x" not in events, events[-300:]
        assert len(enemy.server.requests) + len(enemy.trap.requests) == asked, "the chat page fetched an address"


def check_slow_loris(target: Target, connections: int = 200) -> float:
    """Hold many requests half sent; seconds that an honest one takes meanwhile."""
    held = []
    try:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S)
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ")
            held.append(connection)
        started_s = time.monotonic()
        status, reply = exchange(target.port, [request("GET", "/v1/models", [bearer(target)])])
        assert status == 200 and b'"tiny"' in reply
        return time.monotonic() - started_s
    finally:
        for connection in held:
            connection.close()


def own_names(folder: Path) -> dict[str, str]:
    """Variables under which every Python process resolves the names of :func:`hostile.names`, each in its own order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_RESOLVER.format(answers=hostile.names().answers))
    return {"PYTHONPATH": str(folder)}


_RESOLVER = """
import socket

answers = {answers!r}
ask_system = socket.getaddrinfo


def getaddrinfo(host, port, *rest, **named):
    if not str(host).endswith((".test", ".internal")):
        return ask_system(host, port, *rest, **named)
    if host not in answers:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    rounds = answers[host]
    found = rounds.pop(0) if len(rounds) > 1 else rounds[0]
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
    return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in zip(families, found)]


socket.getaddrinfo = getaddrinfo
"""
