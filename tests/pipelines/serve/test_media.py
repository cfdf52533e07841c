"""What is served as a medium: judged by decoding, fetched under its host's name, and never told apart by its label."""

from __future__ import annotations

import asyncio
import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from longvu_model.video import FrameSampling
from pipelines.config import ConfigError, load_config
from pipelines.serve.guard_addresses import is_public, parse_web_address
from pipelines.serve.media import (
    MediaGuard,
    MediaPolicy,
    MediaRefused,
    Probe,
    check_media,
    check_sampling,
    shown_url,
)
from tests.pipelines.conftest import write_video
from tests.pipelines.serve import hostile


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", [3, 3])


def test_a_video_is_probed(video: Path) -> None:
    assert check_media(video, MediaPolicy()) == Probe("video", "h264", 96, 64, 24, 4.0, 6.0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_picture_is_probed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.mp4"  # what it is called does not matter
    path.write_bytes(hostile.picture(kind))
    assert check_media(path, MediaPolicy(), "image") == Probe("image", kind.lower(), 32, 32, 1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"max_duration_s": 5.9}, "a video of 6 s, allowed are 5.9"),
        ({"max_frames": 23}, "a video of 24 frames, allowed are 23"),
        ({"max_pixels": 96 * 64 - 1}, "6144 pixels, allowed are 6143"),
    ],
)
def test_caps(video: Path, limit: dict[str, float], said: str) -> None:
    with pytest.raises(MediaRefused, match=said) as refused:
        check_media(video, MediaPolicy.model_validate(limit))
    assert refused.value.status == 413
    assert str(video) not in str(refused.value), "paths of the server are not the client's business"


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"text", 415, "this file is not a video: no known container"),
        (b"", 415, "this file is empty"),
        (b"GIF89a", 422, "this file"),
        (None, 404, "this file: no such file"),
    ],
)
def test_what_is_no_video(content: bytes | None, status: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "secret-name.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaRefused) as refused:
        check_media(path, MediaPolicy())
    assert refused.value.status == status and "secret-name" not in str(refused.value)
    assert str(refused.value).startswith(said)


def test_sampling_is_bounded(video: Path) -> None:
    probe = check_media(video, MediaPolicy())
    policy = MediaPolicy(max_sampled_frames=10)
    assert check_sampling(probe, FrameSampling(fps=1), policy) == 6
    assert check_sampling(probe, FrameSampling(num_frames=10), policy) == 10
    with pytest.raises(MediaRefused, match="24 frames sampled from this video, allowed are 10") as refused:
        check_sampling(probe, FrameSampling(fps=1000), policy)
    assert refused.value.status == 413
    with pytest.raises(MediaRefused, match="no frame between") as refused:
        check_sampling(probe, FrameSampling(start_s=50), policy)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::808:808", False),
        ("::ffff:8.8.8.8", False),
        ("2002:808:808::", False),
        ("2001::1", False),
        ("100::1", False),
        ("fec0::1", False),
        ("4000::1", False),
        ("192.88.99.1", False),
        ("0.0.0.0", False),
        ("203.0.113.9", False),
        ("172.31.255.255", False),
        ("172.32.0.0", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_an_address_is_built_from_what_was_judged() -> None:
    address = parse_web_address("HTTPS://Example.ORG.:8443/a%20b/../c?sig=1%2F2#t=5")
    assert (address.scheme, address.host, address.port) == ("https", "example.org", 8443)
    assert (address.path, address.query) == ("/a%20b/../c", "sig=1%2F2")
    assert str(address) == "https://example.org:8443/a%20b/../c"
    assert parse_web_address("http://[2001:DB8:0::1]").host == "2001:db8::1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:key@example.org/v.mp4?X-Amz-Signature=abc#k", "https://example.org/v.mp4"),
        ("https://example.org?token=abc", "https://example.org"),
        ("https://a@b@example.org/v", "https://example.org/v"),
        ("data:video/mp4;base64,AAAA", "data: URL of 26 characters"),
        ("video:abc?key=1", "video:abc"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("allow_hosts=['*']", "is no host"),
        ("allow_hosts=['http://example.org']", "is no host"),
        ("allow_hosts=['example.org:99999999']", "is no host"),
        ("allow_networks=['10.0.0.1/8']", "has host bits set"),
        ("allow_ports=[0]", "is no port"),
        ("file_roots=['/']", "a folder below /"),
        ("file_roots=['relative']", "absolute path"),
        ("file_roots=['/missing/folder']", "no such folder"),
        ("max_bytes=0", "max_bytes=0"),
    ],
)
def test_a_policy_that_cannot_be_meant(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("*", r"\*")):
        load_config(MediaPolicy, overrides=[override])


def test_refusals_name_the_field(tmp_path: Path) -> None:
    async def fetched() -> None:
        async with MediaGuard(MediaPolicy(), tmp_path).fetch("nonsense", param="messages.0.content.1.video_url.url"):
            pass

    with pytest.raises(MediaRefused) as refused:
        asyncio.run(fetched())
    assert refused.value.param == "messages.0.content.1.video_url.url"


class Secure:
    """An https server for ``media.test`` with an authority of its own."""

    def __init__(self, folder: Path, video: bytes) -> None:
        self.asked_for: list[str | None] = []
        self.authority = folder / "authority.pem"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder, self.authority))
        context.sni_callback = lambda _, name, __: self.asked_for.append(name)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302 if self.path == "/to-http" else 200)
                self.send_header("Location", "http://media.test/good.mp4")
                self.send_header("Content-Length", str(len(video)))
                self.end_headers()
                self.wfile.write(video)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((hostile.SERVER, 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _certificate(folder: Path, authority: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("media.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    authority.write_bytes(pem)
    both = folder / "server.pem"
    both.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + pem
    )
    return both


@pytest.fixture
def secure(tmp_path: Path, video: Path) -> Iterator[Secure]:
    server = Secure(tmp_path, video.read_bytes())
    yield server
    server.close()


def test_tls_is_for_the_name_though_the_address_is_pinned(
    secure: Secure, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = MediaPolicy(
        allow_public=True, allow_networks=(f"{hostile.SERVER}/32",), allow_ports=(secure.port,), read_timeout_s=20
    )
    names = hostile.names()
    names.answers["other.test"] = [[hostile.SERVER]]
    guard = MediaGuard(policy, tmp_path / "made", names)

    async def fetched(url: str) -> bytes:
        async with guard.fetch(url) as file:
            return file.path.read_bytes()

    with pytest.raises(MediaRefused, match="CertificateError"):
        asyncio.run(fetched(f"https://media.test:{secure.port}/good.mp4"))
    monkeypatch.setattr(
        "aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=str(secure.authority))
    )
    assert asyncio.run(fetched(f"https://media.test:{secure.port}/good.mp4")) == video.read_bytes()
    assert secure.asked_for[-1] == "media.test"
    with pytest.raises(MediaRefused, match="CertificateError"):
        asyncio.run(fetched(f"https://other.test:{secure.port}/good.mp4"))
    with pytest.raises(MediaRefused, match="from https to http"):
        asyncio.run(fetched(f"https://media.test:{secure.port}/to-http"))
