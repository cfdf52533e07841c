"""A web server that lies, a service that nobody may reach, a name server that changes its mind, and bombs."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import socket
import socketserver
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.pipelines.conftest import write_video

SERVER, TRAP = "127.0.0.3", "127.0.0.1"
"""The server is on a network that the policy allows; the trap on one that it does not."""
SECRET = "root-of-all-secrets"


@dataclass(frozen=True)
class World:
    """What attacks are aimed at. ``root`` is the media folder; ``outside`` beside it holds a secret video."""

    server: int
    trap: int
    root: Path
    outside: Path
    max_bytes: int = 1 << 20


@dataclass
class Names:
    """The name server: what each name resolves to, answer by answer; the last one stays."""

    answers: dict[str, list[list[str]]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def names() -> Names:
    """Fresh names for one attack."""
    return Names(
        {
            "media.test": [[SERVER]],
            "private.test": [["10.0.0.1"]],
            "loopback.test": [[TRAP]],
            "localhost": [[TRAP]],
            "metadata.google.internal": [["169.254.169.254"]],
            "mixed.test": [[SERVER, TRAP]],
            "mapped.test": [["::ffff:127.0.0.1"]],
            "zone.test": [["fe80::1%lo"]],
            "garbage.test": [["127.0.0.1; rm"]],
            "rebind.test": [[SERVER], [TRAP]],
        }
    )


class RawServer:
    """Answers each request on its path with the raw bytes that a function gives piece by piece."""

    def __init__(self, host: str, answer: Callable[[str, dict[str, str]], Iterator[bytes]]) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        requests = self.requests

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    line = self.rfile.readline(65536).decode("latin-1").split()
                    headers = {}
                    while header := self.rfile.readline(65536).strip():
                        name, _, value = header.decode("latin-1").partition(":")
                        headers[name.lower()] = value.strip()
                    path = line[1] if len(line) > 1 else ""
                    requests.append((path, headers))
                    for piece in answer(path, headers):
                        self.wfile.write(piece)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server((host, 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def reply(body: bytes, kind: str = "video/mp4", status: str = "200 OK", **headers: str) -> bytes:
    """A whole, honest reply unless ``headers`` say otherwise (``_`` stands for ``-``)."""
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def _redirect(location: str) -> bytes:
    return reply(b"", status="302 Found", Location=location)


def _chunked_forever() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(65536) + b"\r\n"


def _drip(body: bytes) -> Iterator[bytes]:
    yield reply(b"", Content_Length=str(len(body)))
    for byte in body:
        yield bytes([byte])
        time.sleep(0.05)


def _forever(piece: bytes, head: bytes = b"") -> Iterator[bytes]:
    yield head
    while True:
        yield piece


def _stall(seconds: float) -> Iterator[bytes]:
    time.sleep(seconds)
    yield b""


@dataclass
class Hostile:
    """The running world."""

    world: World
    server: RawServer
    trap: RawServer

    def close(self) -> None:
        self.server.close()
        self.trap.close()


def start(folder: Path) -> Hostile:
    """Start the servers and lay out the files under ``folder``."""
    root, outside = folder / "media", folder / "media-private"
    video = write_video(root / "good.mp4", [2]).read_bytes()
    write_video(outside / "secret.mp4", [1], seed=5)
    (root / "folder").mkdir()
    (root / "folder" / "inside.mp4").write_bytes(video)
    (root / "inner-link.mp4").symlink_to("folder/inside.mp4")
    (root / "link.mp4").symlink_to(outside / "secret.mp4")
    (root / "linked").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("../..")
    (root / "large.mp4").write_bytes(video + bytes(2 << 20))
    (root / "text.mp4").write_text(SECRET)
    (root / "ünïcode #1.mp4").write_bytes(video)
    os.mkfifo(root / "pipe.mp4")
    ports: dict[str, int] = {}

    def answer(path: str, _: dict[str, str]) -> Iterator[bytes]:
        name, _, query = path[1:].partition("?")
        trap = f"http://{TRAP}:{ports['trap']}/secret"
        again = f"http://media.test:{ports['server']}"
        replies: dict[str, Callable[[], Iterator[bytes]]] = {
            "good.mp4": lambda: iter([reply(video)]),
            "untyped": lambda: iter([reply(video, kind="text/html")]),
            "to-trap": lambda: iter([_redirect(trap)]),
            "to-good": lambda: iter([_redirect("/good.mp4")]),
            "to": lambda: iter([_redirect(query.replace("TRAP", str(ports["trap"])))]),
            "loop": lambda: iter([_redirect("/loop")]),
            "twice-to-trap": lambda: iter([_redirect(f"{again}/to-trap")]),
            "chain-9": lambda: iter([_redirect("/chain-8")]),
            "nowhere": lambda: iter([reply(b"", status="302 Found")]),
            "raw-location": lambda: iter([reply(b"", status="302 Found", Location="http://127.0.0.1\\@media.test/")]),
            "endless": _chunked_forever,
            "large": lambda: iter([reply(b"x" * 10, Content_Length=str(1 << 40))]),
            "unlimited": lambda: _forever(bytes(65536), b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
            "short": lambda: iter([reply(video, Content_Length=str(len(video) + 100))]),
            "cut": lambda: iter([reply(video, Content_Length="100")]),
            "negative": lambda: iter([reply(video, Content_Length="-1")]),
            "two-lengths": lambda: iter(
                [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nhellohell"]
            ),
            "gzip": lambda: iter([reply(gzip.compress(bytes(8 << 20)), Content_Encoding="gzip")]),
            "brotli": lambda: iter([reply(b"\x8b", Content_Encoding="br")]),
            "stall": lambda: _stall(3.0),
            "stalled-body": lambda: _pieces(reply(b"", Content_Length="1000"), 3.0),
            "drip": lambda: _drip(video),
            "continue": lambda: _forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
            "headers": lambda: _forever(b"X-A: " + b"a" * 1000 + b"\r\n", b"HTTP/1.1 200 OK\r\n"),
            "long-header": lambda: _forever(b"a" * 65536, b"HTTP/1.1 200 OK\r\nX-A: "),
            "no-http": lambda: iter([b"SSH-2.0-OpenSSH_9.2\r\n"]),
            "hang-up": lambda: iter([b""]),
            "html": lambda: iter([reply(b"<html>" + SECRET.encode() + b"</html>")]),
            "partial": lambda: iter([reply(video, status="206 Partial Content")]),
            "denied": lambda: iter([reply(SECRET.encode(), status="401 Unauthorized")]),
            "broken": lambda: iter([reply(SECRET.encode(), status="500 Internal Server Error")]),
            "empty": lambda: iter([reply(b"")]),
            "playlist.m3u8": lambda: iter([reply(playlist(trap), kind="application/vnd.apple.mpegurl")]),
        }
        if name.startswith("chain-") and name != "chain-9":
            number = int(name.removeprefix("chain-"))
            return iter([_redirect(f"/chain-{number - 1}" if number else "/good.mp4")])
        return replies.get(name, lambda: iter([reply(b"", status="404 Not Found")]))()

    server = RawServer(SERVER, answer)
    trap = RawServer(TRAP, lambda path, _: iter([reply(SECRET.encode())]))
    ports |= {"server": server.port, "trap": trap.port}
    return Hostile(World(server.port, trap.port, root, outside), server, trap)


def _pieces(head: bytes, seconds: float) -> Iterator[bytes]:
    yield head
    time.sleep(seconds)


def playlist(target: str) -> bytes:
    """An HLS playlist whose one segment is ``target``."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n".encode()


def dash(target: str) -> bytes:
    """A DASH manifest whose media is ``target``."""
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A tiny PNG file that claims to be so large, black."""
    rows = zlib.compress(bytes(min((width // 8 + 1) * height, 64 << 20)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def text_bomb() -> bytes:
    """A PNG with text that inflates to 64 MB."""
    inflated = zlib.compressobj(9)
    data = b"".join(inflated.compress(bytes(1 << 20)) for _ in range(64)) + inflated.flush()
    return png(8, 8, (b"zTXt", b"Comment\x00\x00" + data))


def gif(width: int, height: int, frames: int = 1) -> bytes:
    """A GIF of so many 1x1 frames on a canvas of that size."""
    frame = b"!\xf9\x04\x04\x01\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00"
    header = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    return header + frame * frames + b";"


def bmp(width: int, height: int) -> bytes:
    """The header of a BMP file of that size."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(64)


def zip_bomb() -> bytes:
    """A zip archive of 64 MB of zeros."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.mp4", bytes(64 << 20))
    return packed.getvalue()


def long_video(seconds: float) -> bytes:
    """A few pictures shown for that long."""
    packed = io.BytesIO()
    with av.open(packed, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        for at in (0.0, seconds):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            frame.pts = round(at)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return packed.getvalue()


def compressed_header_bomb() -> bytes:
    """A QuickTime file whose index says that it inflates to 4 GB."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    data = struct.pack(">I", 0xFFFFFFF0) + zlib.compress(bytes(1 << 20))
    moov = box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", data)))
    return box(b"ftyp", b"qt  \x00\x00\x00\x00qt  ") + moov + box(b"mdat", bytes(64))


def reference_movie(target: str) -> bytes:
    """A QuickTime file whose samples lie in another file, as its data reference says."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    alias = box(b"url ", struct.pack(">I", 0) + target.encode() + b"\x00")
    dinf = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1) + alias))
    entry = box(
        b"raw ", bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", 16, 16) + bytes(14) + bytes(36)
    )
    table = (
        box(b"stsd", struct.pack(">II", 0, 1) + entry)
        + box(b"stts", struct.pack(">IIII", 0, 1, 1, 1000))
        + box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1))
        + box(b"stsz", struct.pack(">III", 0, 768, 1))
        + box(b"stco", struct.pack(">III", 0, 1, 0))
    )
    media = (
        box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 1000, 1000, 0, 0))
        + box(b"hdlr", struct.pack(">II4sIII", 0, 0, b"vide", 0, 0, 0) + b"\x00")
        + box(b"minf", box(b"vmhd", struct.pack(">IQ", 1, 0)) + dinf + box(b"stbl", table))
    )
    track = box(b"tkhd", struct.pack(">IIIII", 7, 0, 0, 1, 0) + bytes(60) + struct.pack(">II", 16 << 16, 16 << 16))
    moov = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 1000) + bytes(80)) + box(
        b"trak", track + box(b"mdia", media)
    )
    return box(b"ftyp", b"qt  \x00\x00\x00\x00qt  ") + box(b"moov", moov)


def picture(kind: str) -> bytes:
    """A small picture in a format of Pillow."""
    packed = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(packed, kind)
    return packed.getvalue()
